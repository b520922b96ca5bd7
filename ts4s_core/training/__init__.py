"""Training: exact, synchronous, sharded. Knows torch and numbers, not Spark."""
