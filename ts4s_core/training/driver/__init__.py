"""The training step as its driver sees it: attempts, launchers, metrics."""
