"""HTTP for all providers: the client, time limits for streams, and the errors of the transport."""
