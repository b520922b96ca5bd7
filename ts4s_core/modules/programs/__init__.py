"""A module as a graph of operators, for which no class need be imported."""
