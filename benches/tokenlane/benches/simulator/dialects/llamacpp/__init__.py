"""As llama.cpp's server answers."""

from __future__ import annotations

from .dialect import LlamaCppDialect

__all__ = ["LlamaCppDialect"]
