"""The live view of a pool that `tokenlane top` and the dashboard show: what is behind, why, and how it develops."""
