"""From a pretrained model to an ONNX artifact."""
