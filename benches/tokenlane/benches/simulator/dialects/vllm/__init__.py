"""The dialect of vLLM."""

from __future__ import annotations

from .dialect import VllmDialect

__all__ = ["VllmDialect"]
