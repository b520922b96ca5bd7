"""Optimisers that step a slice of the parameters."""
