"""Prefect tasks: one file a step. Only references and plain numbers go in and out."""
