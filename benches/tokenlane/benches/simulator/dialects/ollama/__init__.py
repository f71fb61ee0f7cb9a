"""As Ollama answers."""

from __future__ import annotations

from .dialect import OllamaDialect

__all__ = ["OllamaDialect"]
