"""Prepares requests for all dialects: checks their options and length, and rewrites their turns."""
