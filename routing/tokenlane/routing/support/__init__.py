"""Helpers for all components: tasks with an owner, and sizes in bytes as text."""
