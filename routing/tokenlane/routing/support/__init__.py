"""Code that all components use: it runs asyncio tasks, and formats sizes in bytes."""
