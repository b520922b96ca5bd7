"""Versioned, sealed artifacts in a folder or in an object store."""
