"""A worker's side of its lane: the ARQ worker, the heartbeat, the lane's offer, and the publishing of deltas."""
