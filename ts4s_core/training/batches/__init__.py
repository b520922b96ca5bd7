"""The plan of batches: which rows are in which part of which step, and reading them ahead."""
