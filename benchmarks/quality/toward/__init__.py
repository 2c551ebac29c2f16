"""Masks toward a target: what two images share."""
