"""The border between a worker and the back ends it can drive."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from types import TracebackType
from typing import ClassVar, Protocol, Self, runtime_checkable

from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.results import ModelInfo, Progress


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
class TellsHealth(Protocol):
    """A provider whose server says whether it can work, without working."""

    async def healthy(self) -> None:
        """Return if it can.

        Raises:
            LlmError: it does not answer, or says that it cannot.
        """
        ...


@runtime_checkable
class TellsVersion(Protocol):
    """A provider that knows the version of the server it talks to."""

    async def version(self) -> str | None:
        """The server's version as it says it; None if this one does not say."""
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """A provider whose server has the model's own tokenizer."""

    async def count_tokens(self, request: ChatRequest, model: str) -> int:
        """How many tokens the request's prompt is, templates included.

        Raises:
            LlmError: the server does not say.
        """
        ...


@runtime_checkable
class Embeds(Protocol):
    """A provider that can turn texts into vectors. Which of its models can is in their `capabilities`."""

    async def embed(self, inputs: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
        """One vector an input, in their order, all of one length, each of Euclidean length 1.

        Args:
            dimensions: how many numbers each is to have, for models that can choose; others give what they have.

        Raises:
            LlmError: as `chat`; if one input fails, all do.
        """
        ...


@runtime_checkable
class Pulls(Protocol):
    """A provider that can have its server, or this host, fetch a model."""

    def pull(self, model: str) -> AsyncGenerator[Progress, None]:
        """Fetch the model; it is there, whole and checked by whoever fetched it, when the generator ends.

        Cancellation: closing the generator stops the download. What has come may stay, to go on from, but is no model.

        Raises:
            ModelNotFound: nobody has it.
            DigestMismatch: what came is not what was announced.
            LlmError: it could not be fetched.
        """
        ...


@runtime_checkable
class Advises(Protocol):
    """A provider that names what to do in place of actions that it does not offer, in the imperative."""

    alternatives: ClassVar[Mapping[str, str]]


@runtime_checkable
class Verifies(Protocol):
    """A provider that can tell a model's content from another's of the same name."""

    async def verify(self, model: str) -> str:
        """The model's digest, as `sha256:…` or, where the server knows only that, its revision: read anew from the
        files where they are this host's, else as the server says it.

        Raises:
            ModelNotFound: it is not there.
            DigestMismatch: its files are not what they were when they came.
        """
        ...


@runtime_checkable
class Loads(Protocol):
    """A provider whose server can be told which models to hold in memory."""

    async def load(self, model: str) -> None:
        """Have the model loaded; returns when it answers at once. Loading what is loaded changes nothing.

        Cancellation: the server may go on loading.

        Raises:
            ModelNotFound: it is not there.
            LlmError: there is no room for it, or it cannot be loaded.
        """
        ...

    async def unload(self, model: str) -> None:
        """Free the memory of the model, after what it runs now; returns when that is asked for. Unloading what is not
        loaded changes nothing.

        Raises:
            ModelNotFound: it is not there.
        """
        ...
