"""The border between a worker and the back ends it can drive."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from tokenlane.routing.messages import ChatRequest, ModelInfo, TokenDelta

__all__ = ["LlmProvider", "TellsVersion"]


class LlmProvider(Protocol):
    """One lane's back end. Every error is an `LlmError` that names provider, lane and, where there is one, model."""

    @property
    def endpoint(self) -> str:
        """The back end's address: the lane's, else the provider's own default. May hold a password."""
        ...

    def chat(self, request: ChatRequest, model: str, resume: str | None = None) -> AsyncGenerator[TokenDelta, None]:
        """Stream the answer of `model`, the lane's model that routing chose.

        The last delta has the `finish_reason` and, if the back end counts, the `usage`; a stream that ends without an
        error is a whole answer. `position`, `attempt` and `lane` of the deltas are the caller's to fill.

        Args:
            resume: text to continue from, for back ends that can; others raise `BadRequest`.

        Cancellation: closing the generator closes the HTTP response, so the back end frees its slot.
        """
        ...

    async def models(self) -> list[ModelInfo]:
        """The models the back end serves now."""
        ...

    async def capacity(self) -> int:
        """How many requests the back end runs at once."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class TellsVersion(Protocol):
    """A provider that knows the version of the server it talks to."""

    async def version(self) -> str | None:
        """The server's version as it says it; None if this one does not say."""
        ...
