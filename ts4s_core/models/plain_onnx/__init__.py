"""A model's graph in ONNX's standard operators."""
