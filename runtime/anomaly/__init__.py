"""Anomalies: a bank of normal images, and how far an image is from them."""
