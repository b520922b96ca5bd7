"""From a graph to a PyTorch module, with the parity gate."""
