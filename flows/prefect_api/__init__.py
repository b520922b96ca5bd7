"""Reaching a Prefect server, or starting a temporary one."""
