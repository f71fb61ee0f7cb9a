"""Turns texts into vectors: batches, the cache, the fallback model."""

from __future__ import annotations

from .embedder import Embedder

__all__ = ["Embedder"]
