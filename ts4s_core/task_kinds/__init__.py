"""The kinds of task: one file each, and the registry of them. What tells one kind from another stands here and nowhere else."""
