"""The names of model servers in messages to users, and which kinds list all their models."""

from __future__ import annotations

NAMES = {
    "ollama": "Ollama",
    "lmstudio": "LM Studio",
    "vllm": "vLLM",
    "tgi": "TGI",
    "llamacpp": "llama.cpp",
    "openai": "an OpenAI-compatible server",
}
"""The names, by provider."""

PULL_AND_LOAD = ("ollama", "lmstudio")
"""The providers whose servers can pull and load a model while they run."""


def lists_all_models(provider: str) -> bool:
    """Whether a model that the provider's server does not list is missing. An OpenAI-compatible server may serve models
    that it does not list, such as aliases."""
    return provider != "openai"
