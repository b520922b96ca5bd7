"""A trained model for use without this project: checked, and written whole or not at all."""
