"""What a version is: its name, its manifest, its hashes."""
