"""The names of the model servers, for texts that people read."""

from __future__ import annotations

NAMES = {
    "ollama": "Ollama",
    "lmstudio": "LM Studio",
    "vllm": "vLLM",
    "tgi": "TGI",
    "llamacpp": "llama.cpp",
    "openai": "an OpenAI-compatible server",
}
"""The server's name by provider."""
