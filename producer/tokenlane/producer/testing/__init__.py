"""A mock pool for agents' tests, without a Redis server and without workers."""

from __future__ import annotations

from .pool import EmbedHandler, Handler, MockPool, letters

__all__ = ["EmbedHandler", "Handler", "MockPool", "letters"]
