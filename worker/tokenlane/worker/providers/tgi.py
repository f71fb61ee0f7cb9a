"""Hugging Face's text-generation-inference."""

from __future__ import annotations

from typing import ClassVar

from tokenlane.routing.errors import BadRequest
from tokenlane.routing.messages import ChatRequest, ModelInfo

from .openai import OpenAiChatProvider

__all__ = ["TgiProvider"]


class TgiProvider(OpenAiChatProvider):
    """A TGI server: one model, which batches what it is given. It has no embeddings."""

    default_endpoint: ClassVar[str | None] = "http://127.0.0.1:8080"

    async def models(self) -> list[ModelInfo]:
        """The one model, from `/info`: the list knows no limits."""
        info = await self._page("/info")
        try:
            return [
                ModelInfo(
                    name=info["model_id"],
                    provider=self._lane.provider,
                    lane=self._lane.name,
                    digest=info.get("model_sha"),
                    context_length=info["max_total_tokens"],
                    loaded=True,
                    capabilities=("chat", "schema"),
                )
            ]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._no_page("/info") from None

    async def capacity(self) -> int:
        """64, half of what it takes before it refuses."""
        return 64

    def _adapted(self, request: ChatRequest) -> ChatRequest:
        if request.repetition_penalty is not None:
            raise BadRequest("TGI's chat does not support repetition_penalty: use presence_penalty.")
        match request.response_format:
            case None:
                return request
            case {"type": "text"}:
                return request.model_copy(update={"response_format": None})
            case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
                return request.model_copy(update={"response_format": {"type": "json", "value": schema}})
            case _:
                raise BadRequest("`response_format` for TGI must be of type text, or json_schema with a schema.")
