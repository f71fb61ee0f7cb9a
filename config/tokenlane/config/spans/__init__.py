"""Exports the spans of verbs to the exporter that the environment names."""
