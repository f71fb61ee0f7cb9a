"""As a server that speaks OpenAI's dialect and no more answers."""

from __future__ import annotations

from .dialect import OpenAiDialect

__all__ = ["OpenAiDialect"]
