"""The frozen encoder Φ: load it, check its weights, run it as one pass."""
