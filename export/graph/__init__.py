"""The ONNX graph: fuse, export, lint, change its precision, run it, compare it."""
