"""HTTP for all dialects: bodies, answers that wait, event streams, and the server."""
