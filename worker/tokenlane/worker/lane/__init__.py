"""A lane as its worker serves it: the ARQ worker, its heartbeat, its offer, and the deltas it publishes."""
