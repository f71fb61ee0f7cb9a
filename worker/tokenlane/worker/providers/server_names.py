"""The names of model servers in messages to users."""

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
