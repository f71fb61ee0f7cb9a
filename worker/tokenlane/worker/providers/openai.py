"""Back ends that speak OpenAI's HTTP dialect."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, ClassVar

from tokenlane.routing.errors import BadRequest, LlmError
from tokenlane.routing.messages import ChatRequest, ModelInfo, TokenDelta

from .base import HttpProvider
from .body import chat_body
from .openai_answer import OpenAiAnswerReader
from .sse import SseReader

__all__ = ["OpenAiProvider"]


class OpenAiProvider(HttpProvider):
    """Any OpenAI-compatible server. Subclasses say where theirs differs."""

    stream_type: ClassVar[str] = "text/event-stream"
    option_names: ClassVar[Mapping[str, str]] = {}
    """What the server calls an option, where that differs from our name."""

    async def chat(
        self, request: ChatRequest, model: str, resume: str | None = None
    ) -> AsyncGenerator[TokenDelta, None]:
        """Stream the answer; see `LlmProvider.chat`."""
        answer = OpenAiAnswerReader(model)
        events = SseReader()
        try:
            if resume is not None:
                raise BadRequest("Continuing a partial answer is not supported by this provider.")
            body = chat_body(self._adapted(request), model, self.option_names)
            async with aclosing(self._stream("/v1/chat/completions", body, answer)) as chunks:
                async for chunk in chunks:
                    for event in events.feed(chunk):
                        delta = answer.take(event)
                        if delta is not None:
                            yield delta
            yield answer.last()
        except LlmError as error:
            error.at(provider=self._lane.provider, lane=self._lane.name, model=model)
            raise

    async def models(self) -> list[ModelInfo]:
        """The models the server lists."""
        page = await self._page("/v1/models")
        try:
            return [self._model_info(entry) for entry in page["data"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._no_page("/v1/models") from None

    async def capacity(self) -> int:
        """How many requests to run at once: a cautious guess, since the dialect has no word for it."""
        return 4

    def _adapted(self, request: ChatRequest) -> ChatRequest:
        """The request as this server wants it, where more differs than the names of options."""
        return request

    def _model_info(self, entry: dict[str, Any]) -> ModelInfo:
        return ModelInfo(
            name=entry["id"],
            provider=self._lane.provider,
            lane=self._lane.name,
            context_length=entry.get("max_model_len"),
            capabilities=("chat",),
        )
