"""The servers that the simulator can imitate, one package each."""

from __future__ import annotations

from .anthropic import AnthropicDialect
from .base import Dialect
from .llamacpp import LlamaCppDialect, LlamaCppRouterDialect
from .lmstudio import LmStudioDialect
from .ollama import OllamaDialect
from .openai import OpenAiOwnDialect
from .tgi import TgiDialect
from .vllm import VllmDialect

__all__ = ["DIALECTS", "Dialect"]

DIALECTS: dict[str, type[Dialect]] = {
    "ollama": OllamaDialect,
    "vllm": VllmDialect,
    "lmstudio": LmStudioDialect,
    "tgi": TgiDialect,
    "llamacpp": LlamaCppDialect,
    "llamacpp-router": LlamaCppRouterDialect,
    "openai": OpenAiOwnDialect,
    "anthropic": AnthropicDialect,
}
