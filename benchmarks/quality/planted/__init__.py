"""Encoders whose explanation is known, because it was planted, and their scenes."""
