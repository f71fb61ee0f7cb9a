"""What a lane does with its models: list, pull, verify, load, unload."""
