"""Redis and nothing but Redis: connections, keys, scripts, typed replies."""
