"""Prefect, a Spark cluster and an S3 server on one machine."""
