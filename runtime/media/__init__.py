"""Images in and masks out: decode, fit to the graph's grid, map back, draw, encode."""
