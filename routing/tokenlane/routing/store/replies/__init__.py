"""Reads the replies of scripts into types."""
