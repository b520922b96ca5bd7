"""Verifying a store and deleting what nothing needs."""
