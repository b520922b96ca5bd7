"""Which rows make which batch, and reading them ahead."""
