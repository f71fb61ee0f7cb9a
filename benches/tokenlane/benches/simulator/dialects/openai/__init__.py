"""OpenAI's dialect, without additions."""

from __future__ import annotations

from .dialect import OpenAiDialect

__all__ = ["OpenAiDialect"]
