"""The provider and model that are checked, and the requests that the checks send to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.results import ModelInfo
from tokenlane.worker.providers.protocol import LlmProvider

QUESTION = "What is the capital of France? Answer in one sentence."


class BrokenPromise(Exception):
    """The provider breaks a promise. The message explains how, without quoting the model."""


@dataclass
class Subject:
    """The checked provider and model.

    Args:
        patience_s: the longest time for one answer, in seconds.
        busy: returns how many requests the server runs now; None if that cannot be measured.
        info: the provider's description of the model.
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
        """The deltas of an answer, which must keep the promises of every answer.

        Raises:
            BrokenPromise: the answer breaks a promise.
            LlmError: the provider raised it.
        """
        deltas: list[TokenDelta] = []
        await self._receive(deltas, resume, options)
        if not deltas or deltas[-1].finish_reason is None:
            raise BrokenPromise("the last delta has no finish_reason, so the answer may be incomplete")
        if any(delta.finish_reason is not None for delta in deltas[:-1]):
            raise BrokenPromise("a delta before the last has a finish_reason")
        if any(not delta.model for delta in deltas):
            raise BrokenPromise("a delta does not name its model")
        return deltas

    async def refusal(self, resume: str | None = None, **options: Any) -> LlmError | None:
        """The error with which the provider refuses a request; None if it answers.

        Raises:
            BrokenPromise: deltas came before the error, or the error is not an `LlmError` with its provider and lane.
        """
        deltas: list[TokenDelta] = []
        try:
            await self._receive(deltas, resume, options)
        except LlmError as error:
            check_error(error)
            if deltas:
                raise BrokenPromise(f"the refusal ({error.code}) came only after deltas") from None
            return error
        except Exception as error:
            raise BrokenPromise(f"{type(error).__name__} was raised, which is not an LlmError") from None
        return None

    async def _receive(self, deltas: list[TokenDelta], resume: str | None, options: dict[str, Any]) -> None:
        async with asyncio.timeout(self.patience_s):
            async with aclosing(self.provider.chat(request(**options), self.model, resume)) as stream:
                async for delta in stream:
                    deltas.append(delta)


def check_error(error: LlmError) -> None:
    """Raise BrokenPromise unless the error has a message and names its provider and lane."""
    if not (error.provider and error.lane):
        raise BrokenPromise(f"the error {error.code!r} does not name its provider and lane")
    if not error.message:
        raise BrokenPromise(f"the error {error.code!r} has no message")


def request(**options: Any) -> ChatRequest:
    """A request with a default question and these options."""
    messages = options.pop("messages", None) or [{"role": "user", "content": QUESTION}]
    return ChatRequest.model_validate({"role": "conformance", "messages": messages, "temperature": 0, **options})


def joined_text(deltas: Sequence[TokenDelta]) -> str:
    return "".join(delta.text for delta in deltas)
