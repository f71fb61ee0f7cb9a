"""This machine: paths, private files, child processes, signals, the embedded server, key files, the running `up`."""
