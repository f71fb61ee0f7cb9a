"""As Text Generation Inference answers."""

from __future__ import annotations

from .dialect import TgiDialect

__all__ = ["TgiDialect"]
