"""Settings as values, the embedded server, and the root of the command line."""
