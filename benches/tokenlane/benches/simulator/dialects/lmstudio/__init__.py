"""As LM Studio answers."""

from __future__ import annotations

from .dialect import LmStudioDialect

__all__ = ["LmStudioDialect"]
