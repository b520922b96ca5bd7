"""Evaluation of a trained model: predictions, figures, the promotion gate and the report."""
