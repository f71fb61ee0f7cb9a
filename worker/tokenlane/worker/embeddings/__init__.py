"""Texts into vectors."""

from __future__ import annotations

from .step import Embedder

__all__ = ["Embedder"]
