"""Labelled text: sources, checks, tokens, and the dataset artifact."""
