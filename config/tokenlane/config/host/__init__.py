"""This machine: paths, private files, child processes, signals, the embedded server, key files, a running `up`."""
