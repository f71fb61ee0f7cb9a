"""The gateway: HTTP APIs of OpenAI and Anthropic in front of a pool, as a Starlette application."""
