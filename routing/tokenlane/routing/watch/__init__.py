"""Observing a pool: a snapshot of its state, and checks of the pool and its Redis server."""
