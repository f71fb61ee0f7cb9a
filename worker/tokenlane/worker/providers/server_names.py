"""What the servers of the providers are called."""

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
