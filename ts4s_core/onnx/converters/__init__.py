"""Operator converters for the opsets that onnx2torch does not know."""
