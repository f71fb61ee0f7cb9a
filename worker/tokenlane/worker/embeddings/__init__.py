"""Texts into vectors."""

from __future__ import annotations

from .step import embed

__all__ = ["embed"]
