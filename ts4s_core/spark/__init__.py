"""Spark: the only home of pyspark. Sessions, the driver program, and the barrier stage that training runs in."""
