"""The dialect of Text Generation Inference."""

from __future__ import annotations

from .dialect import TgiDialect

__all__ = ["TgiDialect"]
