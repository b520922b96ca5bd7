"""Messages between the driver and the ranks."""
