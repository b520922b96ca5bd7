"""Leases that fence, marks of who uses the store, and the detection of dead owners."""
