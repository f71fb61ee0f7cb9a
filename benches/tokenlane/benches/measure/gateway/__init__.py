"""Measures what the gateway adds to an agent's own client."""
