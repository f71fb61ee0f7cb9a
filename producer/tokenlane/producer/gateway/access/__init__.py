"""Who asks: API keys, the headers of coding agents, and what a model's name means for a caller."""
