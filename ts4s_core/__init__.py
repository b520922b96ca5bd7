"""ts4s without Prefect: settings, artifacts, ONNX, data, training, Spark, evaluation."""

import os

# ONNX Runtime's import starts a sender of usage data, and leaves its file `.ses` in the temporary folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
