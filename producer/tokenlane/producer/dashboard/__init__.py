"""The dashboard: a live page of a pool, from which operators also steer it, as an aiohttp application."""
