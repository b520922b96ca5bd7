"""Objects below one address: a folder or an object store."""
