"""API keys: who may ask through a gateway, and what a gateway remembers of the pool while its server is away."""
