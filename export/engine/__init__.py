"""TensorRT engines: build them from a typed ONNX graph."""
