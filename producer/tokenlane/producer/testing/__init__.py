"""Pools and answers for tests of agents."""

from __future__ import annotations

from .pool import EmbedHandler, Handler, MockPool, letters

__all__ = ["EmbedHandler", "Handler", "MockPool", "letters"]
