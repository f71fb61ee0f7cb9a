"""Measures what a worker applies to requests."""
