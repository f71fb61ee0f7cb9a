"""The host of a measurement: what it is, and what the processes of a server use of it."""
