"""TensorRT, classic and RTX: select an engine, load it, run it."""
