"""The names of the servers, for people."""

from __future__ import annotations

NAMES = {
    "ollama": "Ollama",
    "lmstudio": "LM Studio",
    "vllm": "vLLM",
    "tgi": "TGI",
    "llamacpp": "llama.cpp",
    "openai": "an OpenAI-compatible server",
}
"""By provider, for people."""
