"""A flow run from its parameters to its last state: the model's lease, a person's approval, the ending."""
