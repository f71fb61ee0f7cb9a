"""Downloads a model's files to the worker's host, for servers that load a model when they start."""
