"""vLLM's OpenAI-compatible server."""

from __future__ import annotations

from typing import Any, ClassVar

from tokenlane.routing.errors import LlmError
from tokenlane.routing.messages import ModelInfo

from .openai import OpenAiProvider

__all__ = ["VllmProvider"]


class VllmProvider(OpenAiProvider):
    """A vLLM server: one model and its adapters, which batches what it is given."""

    default_endpoint: ClassVar[str | None] = "http://127.0.0.1:8000"

    async def models(self) -> list[ModelInfo]:
        """The model and its adapters; a server started for embeddings lists them without `chat`."""
        models = await super().models()
        try:
            routes = (await self._page("/openapi.json"))["paths"]
            chats, embeds = "/v1/chat/completions" in routes, "/v1/embeddings" in routes
        except (LlmError, KeyError, TypeError):  # it may be told to hide them
            chats, embeds = True, False
        can = (*(("chat", "schema") if chats else ()), *(("embed",) if embeds else ()))
        return [model.model_copy(update={"capabilities": can}) for model in models]

    async def capacity(self) -> int:
        """64: it batches whatever it gets and queues without bound, so the lane is where the bound is."""
        return 64

    def _model_info(self, entry: dict[str, Any]) -> ModelInfo:
        found = super()._model_info(entry)
        return found.model_copy(update={"loaded": True})
