"""Parses the bytes that a model server sends: server-sent events, JSON lines, and the types of JSON fields."""
