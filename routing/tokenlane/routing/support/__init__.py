"""Helpers for all components: owned asyncio tasks, and sizes in bytes as text."""
