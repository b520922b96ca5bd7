"""An ONNX graph as data: nodes, checks, names of weights."""
