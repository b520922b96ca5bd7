"""Prediction over rows of any number: read, tokenise, run, write, each in a stream."""
