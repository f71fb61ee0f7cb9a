"""What is done with a lane's models: list, pull, verify, load, unload."""
