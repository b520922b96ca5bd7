"""Models that can be trained: heads, adapters, small networks, and the folders that they are read from."""
