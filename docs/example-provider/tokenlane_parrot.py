"""A provider that repeats what it is told, word by word: the least that a provider has to do."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from itertools import takewhile

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import BadRequest, ModelNotFound
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.results import ModelInfo


class ParrotProvider(AbstractAsyncContextManager):
    def __init__(self, lane: LaneSettings) -> None:
        self.endpoint = lane.endpoint or "parrot:"
        self._where = {"provider": lane.provider, "lane": lane.name}

    async def chat(self, request: ChatRequest, model: str, resume: str | None = None) -> AsyncGenerator[TokenDelta]:
        if model != "parrot":
            raise ModelNotFound("There is no other parrot.", model=model, **self._where)
        if resume is not None or not isinstance(request.messages[-1].content, str):
            raise BadRequest("A parrot only repeats text, from its beginning.", model=model, **self._where)
        words = request.messages[-1].content.split()
        for word in takewhile(lambda word: word not in (request.stop or ()), words[: request.max_tokens]):
            yield TokenDelta(text=f"{word} ", model=model)
        yield TokenDelta(finish_reason="stop" if words == words[: request.max_tokens] else "length", model=model)

    async def models(self) -> list[ModelInfo]:
        return [ModelInfo(name="parrot", capabilities=("chat",), **self._where)]

    async def capacity(self) -> int:
        return 16

    async def aclose(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...
