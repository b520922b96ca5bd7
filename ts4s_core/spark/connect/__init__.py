"""Spark Connect: sessions that are clients of a server, and what they send to it."""
