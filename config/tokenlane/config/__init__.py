"""Settings, the embedded Redis server, and the root of the command line."""
