"""The protocol that every provider implements, and protocols for abilities that some providers have."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from types import TracebackType
from typing import ClassVar, Protocol, Self, runtime_checkable

from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.results import ModelInfo, Progress


class LlmProvider(Protocol):
    """One lane's server. Every error is an `LlmError` that names the provider, the lane and, if any, the model."""

    @property
    def endpoint(self) -> str:
        """The model server's URL, from the lane or the provider's default. May hold a password."""
        ...

    def chat(self, request: ChatRequest, model: str, resume: str | None = None) -> AsyncGenerator[TokenDelta, None]:
        """Stream the answer of `model`, the model that routing chose for the lane.

        The last delta has the `finish_reason` and, if the model server counts tokens, the `usage`. A stream that ends
        without an error is a complete answer. The caller fills in `position`, `attempt` and `lane` of the deltas.

        Args:
            resume: text to continue; model servers that cannot continue text raise `BadRequest`.

        Cancellation: closing the generator closes the HTTP response, so the model server frees its slot.
        """
        ...

    async def models(self) -> list[ModelInfo]:
        """The models the model server serves now."""
        ...

    async def capacity(self) -> int:
        """How many requests the model server runs at once."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class ReportsHealth(Protocol):
    """A provider whose server can report its health without running a model."""

    async def healthy(self) -> None:
        """Return if the server is healthy.

        Raises:
            LlmError: the server does not answer, or reports that it cannot work.
        """
        ...


@runtime_checkable
class ReportsVersion(Protocol):
    """A provider that can ask its server for its version."""

    async def version(self) -> str | None:
        """The version that the server reports; None if it does not report any."""
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """A provider whose server has the model's own tokenizer."""

    async def count_tokens(self, request: ChatRequest, model: str) -> int:
        """The number of tokens of the request's prompt, including the template's.

        Raises:
            LlmError: the server cannot count.
        """
        ...


@runtime_checkable
class Embeds(Protocol):
    """A provider that can turn texts into vectors, with models that have "embed" in their `capabilities`."""

    async def embed(self, inputs: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
        """One vector per input, in order, all with the same number of dimensions and of Euclidean length 1.

        Args:
            dimensions: the wanted number of dimensions. Models with a fixed number ignore it.

        Raises:
            LlmError: as for `chat`; if one input fails, the whole call fails.
        """
        ...


@runtime_checkable
class Pulls(Protocol):
    """A provider that can download a model, through its server or onto this host."""

    def pull(self, model: str) -> AsyncGenerator[Progress, None]:
        """Download the model. When the generator ends, the model is complete and its digest was checked.

        Cancellation: closing the generator stops the download. A part of it may stay, to resume from, but is not
        usable.

        Raises:
            ModelNotFound: no source has the model.
            DigestMismatch: the download does not match its digest.
            LlmError: the download failed.
        """
        ...


@runtime_checkable
class Advises(Protocol):
    """A provider with advice, in the imperative, for actions that it does not support."""

    alternatives: ClassVar[Mapping[str, str]]


@runtime_checkable
class Verifies(Protocol):
    """A provider that can compute or ask for a model's digest."""

    async def verify(self, model: str) -> str:
        """The model's digest as `sha256:…`, or its revision if the server knows only that. It is computed from the
        files if they are on this host, and otherwise comes from the server.

        Raises:
            ModelNotFound: the model is missing.
            DigestMismatch: its files have changed since they were downloaded.
        """
        ...


@runtime_checkable
class Loads(Protocol):
    """A provider that can have its server load and unload models."""

    async def load(self, model: str) -> None:
        """Load the model, and return when it is ready. Loading a loaded model does nothing.

        Cancellation: the server may go on loading.

        Raises:
            ModelNotFound: the model is missing.
            LlmError: the server has no memory for the model, or cannot load it.
        """
        ...

    async def unload(self, model: str) -> None:
        """Have the server free the model's memory once its running requests end; returns at once. Unloading a model
        that is not loaded does nothing.

        Raises:
            ModelNotFound: the model is missing.
        """
        ...
