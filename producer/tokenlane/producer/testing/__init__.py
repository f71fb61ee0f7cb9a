"""A pool for agents' tests."""

from __future__ import annotations

from .pool import EmbedHandler, Handler, MockPool, letters

__all__ = ["EmbedHandler", "Handler", "MockPool", "letters"]
