"""A mock pool for agents' tests, without a Redis server and without workers."""

from __future__ import annotations

from .mock_messages import Failover, Restart
from .pool import EmbedHandler, Handler, MockPool, letters

__all__ = ["EmbedHandler", "Failover", "Handler", "MockPool", "Restart", "letters"]
