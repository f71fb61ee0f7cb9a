"""Prepares requests for all dialects: checks options and length, and rewrites the turns of the conversation."""
