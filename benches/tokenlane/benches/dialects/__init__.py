"""The languages the simulator speaks, a module each."""

from __future__ import annotations

from .dialect import Dialect, Spoken
from .ollama import OllamaDialect
from .openai import OpenAiDialect

__all__ = ["DIALECTS", "Dialect", "Spoken"]

DIALECTS: dict[str, type[Dialect]] = {"openai": OpenAiDialect, "ollama": OllamaDialect}
