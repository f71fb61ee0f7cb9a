"""The agent's link to a pool: its open requests, what comes back for them, and its sign of life."""
