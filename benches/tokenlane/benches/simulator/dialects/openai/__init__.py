"""The dialect of OpenAI's own API."""

from __future__ import annotations

from .dialect import OpenAiDialect

__all__ = ["OpenAiDialect"]
