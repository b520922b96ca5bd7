"""What tasks show in Prefect's UI."""
