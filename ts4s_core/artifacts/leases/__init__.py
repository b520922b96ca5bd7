"""Who may write: leases that one process holds at a time."""
