"""The dialect of Anthropic's API."""

from __future__ import annotations

from .dialect import AnthropicDialect

__all__ = ["AnthropicDialect"]
