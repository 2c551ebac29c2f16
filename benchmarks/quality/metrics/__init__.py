"""Metrics of explanation maps."""
