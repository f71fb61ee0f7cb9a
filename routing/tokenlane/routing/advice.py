"""What to do when no model can be reached; said by `probe`, and by requests that find no lane."""

from __future__ import annotations

__all__ = ["GET_A_MODEL"]

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
