"""The dialect of llama.cpp's server."""

from __future__ import annotations

from .dialect import LlamaCppDialect

__all__ = ["LlamaCppDialect"]
