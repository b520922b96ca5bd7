"""How ranks combine what they learn: synchronous, averaging, hogwild."""
