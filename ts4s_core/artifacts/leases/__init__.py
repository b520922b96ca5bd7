"""Who may write now: leases that fence, marks of who uses the store, and how the dead are told from the living."""
