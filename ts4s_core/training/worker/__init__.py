"""A rank: assembling model, rows and strategy, and its loop."""
