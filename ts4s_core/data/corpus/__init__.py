"""Plain text for language models: scan, tokens, windows."""
