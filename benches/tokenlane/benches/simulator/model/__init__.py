"""The simulated model: its answers, its vectors, the models of a server, and refusals."""
