"""What the Spark ML stages are made of."""
