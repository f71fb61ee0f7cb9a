"""Finds a model server for a lane without a provider: finds the model servers that answer, and chooses one of them."""
