"""The Spark program: its process, the client's side of it, its jobs."""
