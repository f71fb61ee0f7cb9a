"""The link to a pool in Redis: its requests and their states, messages to workers, and the client's heartbeat."""
