"""One training step: forward, backward, the fixed tree, the update."""
