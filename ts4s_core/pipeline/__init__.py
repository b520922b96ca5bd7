"""A run and its steps, one class for each kind of flow; no Prefect."""
