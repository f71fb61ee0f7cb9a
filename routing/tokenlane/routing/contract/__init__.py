"""What agents and workers exchange: requests, messages, errors, the seal. Imports nothing else of routing."""
