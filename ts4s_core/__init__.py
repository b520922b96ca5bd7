"""ts4s without Prefect: settings, artifacts, ONNX, data, training, Spark, evaluation."""
