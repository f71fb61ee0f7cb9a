"""Routing: the contract between agents and workers, the decisions about requests and lanes, and the pool in Redis."""
