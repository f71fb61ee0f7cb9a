"""The dialect of LM Studio."""

from __future__ import annotations

from .dialect import LmStudioDialect

__all__ = ["LmStudioDialect"]
