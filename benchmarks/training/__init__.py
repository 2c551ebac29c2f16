"""How fast a masker trains, beside the authors' loop."""
