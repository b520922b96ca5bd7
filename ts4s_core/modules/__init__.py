"""Any PyTorch module as data: an import path with arguments or an ONNX graph, its weights, its inputs and its outputs.

Nothing here is pickled: a module at rest is JSON (how to build it), safetensors (its weights) and perhaps an ONNX graph.
"""
