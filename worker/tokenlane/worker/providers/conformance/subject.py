"""What is being checked, and the few things that checks do with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import BadRequest, LlmError
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.results import ModelInfo
from tokenlane.worker.providers.protocol import LlmProvider

QUESTION = "What is the capital of France? Answer in one sentence."


class Broken(Exception):
    """A promise is broken; the text says how. It holds nothing that a model said."""


@dataclass
class Subject:
    """A provider and one of its models.

    `info`: what the provider says of the model. `busy`: how many requests the server runs, where the checker can tell.
    """

    provider: LlmProvider
    model: str
    embedding_model: str
    patience_s: float
    busy: Callable[[], Awaitable[int]] | None = None
    info: ModelInfo = field(default_factory=lambda: ModelInfo(name=""))
    listed: Sequence[ModelInfo] = ()

    def declares(self, ability: str) -> bool:
        return ability in self.info.capabilities

    async def answer(self, resume: str | None = None, **options: Any) -> list[TokenDelta]:
        """The deltas of an answer, looked at as every answer has to be.

        Raises:
            Broken: they are not what they have to be.
            LlmError: the provider's.
        """
        deltas: list[TokenDelta] = []
        async with asyncio.timeout(self.patience_s):
            async with aclosing(self.provider.chat(request(**options), self.model, resume)) as stream:
                async for delta in stream:
                    deltas.append(delta)
        if not deltas or deltas[-1].finish_reason is None:
            raise Broken("the last delta has no finish_reason, so nothing says that the answer is whole")
        if any(delta.finish_reason is not None for delta in deltas[:-1]):
            raise Broken("a delta before the last has a finish_reason")
        if any(not delta.model for delta in deltas):
            raise Broken("a delta does not say which model it is of")
        return deltas

    async def refusal(self, resume: str | None = None, **options: Any) -> LlmError | None:
        """The error an answer ends in, if it does.

        Raises:
            Broken: something was delivered before it, or it is no typed error that says where it happened.
        """
        begun = False
        try:
            async with asyncio.timeout(self.patience_s):
                async with aclosing(self.provider.chat(request(**options), self.model, resume)) as stream:
                    async for _ in stream:
                        begun = True
        except LlmError as error:
            self.look_at(error)
            if begun:
                raise Broken(f"it was refused ({error.code}) only after a part was delivered") from None
            return error
        except Exception as error:
            raise Broken(f"{type(error).__name__} was raised, which is no LlmError") from None
        return None

    def look_at(self, error: LlmError) -> None:
        """Raise Broken unless the error says where it happened and what to do."""
        if not (error.provider and error.lane):
            raise Broken(f"the error {error.code!r} does not say its provider and lane")
        if not error.message:
            raise Broken(f"the error {error.code!r} has no message")


def request(**options: Any) -> ChatRequest:
    """A request that asks something, with these options."""
    messages = options.pop("messages", None) or [{"role": "user", "content": QUESTION}]
    return ChatRequest.model_validate({"role": "conformance", "messages": messages, "temperature": 0, **options})


def text_of(deltas: Sequence[TokenDelta]) -> str:
    return "".join(delta.text for delta in deltas)


def is_clear(error: LlmError) -> bool:
    """Whether it says that this is not to be had, rather than that something went wrong."""
    return isinstance(error, BadRequest) and not error.retryable
