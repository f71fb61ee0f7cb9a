"""The dialect of llama.cpp's server."""

from __future__ import annotations

from .dialect import LlamaCppDialect
from .router import LlamaCppRouterDialect

__all__ = ["LlamaCppDialect", "LlamaCppRouterDialect"]
