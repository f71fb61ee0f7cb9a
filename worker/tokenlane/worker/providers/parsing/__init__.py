"""Parses the bytes that a back end sends: server-sent events, JSON lines, and the types of JSON fields."""
