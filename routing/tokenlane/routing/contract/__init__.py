"""What agents and workers exchange: requests, messages, errors and the seal. It imports nothing else from routing."""
