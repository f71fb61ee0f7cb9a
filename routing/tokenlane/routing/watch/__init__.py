"""What operators see of a pool: one snapshot of it, and findings about the pool and its Redis server."""
