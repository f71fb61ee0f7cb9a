"""Finds a back end for a lane without a provider: finds the model servers that answer, and chooses one of them."""
