"""Embedding of texts: batches, the vector cache, and the fallback model."""

from __future__ import annotations

from .embedder import Embedder

__all__ = ["Embedder"]
