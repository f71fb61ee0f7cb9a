"""The verbs for keys: the pool's keys, which seal requests, and API keys, with which HTTP clients ask."""
