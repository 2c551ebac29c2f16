"""The demo: a world whose truth is known, an encoder trained on it, and the whole chain run over it."""
