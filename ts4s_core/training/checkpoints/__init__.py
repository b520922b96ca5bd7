"""State from which any number of workers goes on."""
