"""Ollama, by its own API: its OpenAI-compatible one loses errors in mid-stream and overrides a model's defaults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, ClassVar

import httpx

from tokenlane.routing.errors import BadRequest, LlmError, ModelNotFound
from tokenlane.routing.messages import ChatRequest, ModelInfo, TokenDelta

from .base import HttpProvider
from .ndjson import LineReader
from .ollama_answer import OllamaAnswerReader
from .ollama_body import ollama_body
from .vectors import unit_vectors

__all__ = ["OllamaProvider"]

_SHOWN_AT_ONCE = 8
_CAPABILITIES = {
    "completion": ("chat", "schema"),
    "embedding": ("embed",),
    "tools": ("tools",),
    "vision": ("vision",),
}


class OllamaProvider(HttpProvider):
    """An Ollama server."""

    default_endpoint: ClassVar[str | None] = "http://127.0.0.1:11434"
    stream_type: ClassVar[str] = "application/x-ndjson"

    async def chat(
        self, request: ChatRequest, model: str, resume: str | None = None
    ) -> AsyncGenerator[TokenDelta, None]:
        """Stream the answer; see `LlmProvider.chat`."""
        answer = OllamaAnswerReader(model)
        lines = LineReader()
        try:
            if resume is not None:
                raise BadRequest("Continuing a partial answer is not supported by this provider.")
            body = ollama_body(request, model)
            async with aclosing(self._stream("/api/chat", body, answer)) as chunks:
                async for chunk in chunks:
                    for line in lines.feed(chunk):
                        delta = answer.take(line)
                        if delta is not None:
                            yield delta
            yield answer.last()
        except LlmError as error:
            error.at(provider=self._lane.provider, lane=self._lane.name, model=model)
            raise

    async def embed(self, inputs: Sequence[str], model: str) -> list[list[float]]:
        """The vectors of the inputs; see `Embeds.embed`. One that is too long is refused rather than cut."""
        if not inputs:
            return []
        page = await self._work("/api/embed", {"model": model, "input": list(inputs), "truncate": False}, model)
        try:
            return unit_vectors(page["embeddings"], len(inputs))
        except LlmError as error:
            error.at(provider=self._lane.provider, lane=self._lane.name, model=model)
            raise
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._no_page("/api/embed").at(model=model) from None

    async def models(self) -> list[ModelInfo]:
        """The models that have been pulled, those that cannot chat among them."""
        tags, running = await asyncio.gather(self._page("/api/tags"), self._page("/api/ps"))
        showing = asyncio.Semaphore(_SHOWN_AT_ONCE)
        try:
            loaded = {entry["name"] for entry in running["models"]}
            return await asyncio.gather(*(self._model_info(entry, loaded, showing) for entry in tags["models"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._no_page("/api/tags") from None

    async def capacity(self) -> int:
        """1: what Ollama runs at once unless OLLAMA_NUM_PARALLEL says otherwise, which it does not tell."""
        return 1

    def _refused(self, response: httpx.Response, body: bytes) -> LlmError:
        error = super()._refused(response, body)
        if isinstance(error, ModelNotFound):
            error.message = "Ollama does not have this model: pull it there with `ollama pull`, or name another."
        return error

    async def _model_info(self, entry: dict[str, Any], loaded: set[str], showing: asyncio.Semaphore) -> ModelInfo:
        known = entry.get("capabilities")
        if known is None:  # listed since 2026 only
            async with showing:
                known = (await self._page("/api/show", {"model": entry["name"]})).get("capabilities")
        details = entry.get("details") or {}
        return ModelInfo(
            name=entry["name"],
            provider=self._lane.provider,
            lane=self._lane.name,
            digest=entry.get("digest"),
            size_bytes=entry.get("size"),
            quantisation=details.get("quantization_level"),
            context_length=details.get("context_length"),
            loaded=entry["name"] in loaded,
            capabilities=tuple(ours for theirs in known or ("completion",) for ours in _CAPABILITIES.get(theirs, ())),
        )
