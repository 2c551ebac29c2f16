"""How good masks are: on encoders whose truth is known, and on real ones."""
