"""The evaluation step, of classifiers and of language models."""
