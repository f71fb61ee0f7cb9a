"""HTTP for all providers: the client, time limits for streams, and errors for failed connections."""
