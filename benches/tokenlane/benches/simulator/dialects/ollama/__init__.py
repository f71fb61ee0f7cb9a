"""The dialect of Ollama."""

from __future__ import annotations

from .dialect import OllamaDialect

__all__ = ["OllamaDialect"]
