"""What a worker knows about its model server: its models, whether it works, and whether it wants a pause."""
