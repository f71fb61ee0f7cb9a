"""Simulated models: their answers, embeddings and refusals, and the models of a server."""
