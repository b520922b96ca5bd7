"""Checkpoints, from which any number of workers can resume."""
