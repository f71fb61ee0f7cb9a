"""What to do when no model can be reached; said by `probe`, and by requests that find no lane."""

from __future__ import annotations

from .errors import ProviderDown

__all__ = ["GET_A_MODEL", "no_lane"]

GET_A_MODEL = """\
Do one of these:
  - Install Ollama (https://ollama.com/download; `tokenlane probe` on a terminal offers to) and `ollama pull MODEL`;
    or start vLLM, LM Studio, TGI or llama.cpp with a model that can chat.
  - Use a remote OpenAI-compatible endpoint: in llm.toml
        [defaults]
        provider = "openai"
        model = "MODEL"
        [openai]
        endpoint = "https://HOST"
        api_key_env = "NAME_OF_THE_KEYS_VARIABLE"
  - Use the built-in model, a toy to see things work: --provider builtin
Then serve it: `tokenlane up` on its own, or `tokenlane worker` for a pool that runs."""


def no_lane() -> ProviderDown:
    """The end of a request in a pool that no worker is connected to."""
    return ProviderDown(f"No lane is connected to this pool. {GET_A_MODEL}", retryable=False)
