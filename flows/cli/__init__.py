"""The command line: reading it, its table of commands, and what it prints."""
