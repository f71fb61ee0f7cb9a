"""What depends on this machine: paths, files, locks, child processes, signals and the embedded Redis server."""
