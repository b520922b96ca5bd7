"""Gradients and weights between ranks."""
