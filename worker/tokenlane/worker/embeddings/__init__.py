"""Texts into vectors."""

from __future__ import annotations

from .embedder import Embedder

__all__ = ["Embedder"]
