"""Predictions and losses on held-out rows."""
