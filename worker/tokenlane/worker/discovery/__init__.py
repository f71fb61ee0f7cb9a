"""Finds the model servers that answer on this host, and chooses one for a lane whose settings name no provider."""
