"""Sessions: Java, configuration, shipping of code, failures."""
