"""The dialect of OpenAI's own API."""

from __future__ import annotations

from .own import OpenAiOwnDialect

__all__ = ["OpenAiOwnDialect"]
