"""Data preparation and training on executors."""
