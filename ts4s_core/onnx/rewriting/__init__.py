"""Patterns of exported graphs, replaced by native nodes."""
