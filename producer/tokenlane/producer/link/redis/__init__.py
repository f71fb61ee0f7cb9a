"""The link to a pool in Redis: open requests as the pool has them, what workers are asked, the client's heartbeat."""
