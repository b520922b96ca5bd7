"""Models as ONNX: export, import with a head, and the gate that compares them."""
