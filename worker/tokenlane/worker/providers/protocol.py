"""The protocol that every provider implements, and protocols for abilities that some providers have."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from types import TracebackType
from typing import ClassVar, Literal, Protocol, Self, TypeGuard, runtime_checkable

from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.results import ModelInfo, Progress


class LlmProvider(Protocol):
    """The connection to one lane's model server. Methods raise only `LlmError`, which names the provider, the lane and,
    where there is one, the model."""

    @property
    def endpoint(self) -> str:
        """The model server's URL, from the lane's settings or the provider's default. It may contain a password."""
        ...

    def chat(self, request: ChatRequest, model: str, resume: str | None = None) -> AsyncGenerator[TokenDelta, None]:
        """Stream the answer of `model`, which the router chose for this lane.

        The last delta has the `finish_reason` and, if the model server counts tokens, the `usage`. A stream that ends
        without an error is a complete answer. The caller fills in `position`, `attempt` and `lane` of the deltas.

        Args:
            resume: a partial answer to continue. Providers whose model server cannot continue it raise `BadRequest`.

        Cancellation: closing the generator closes the HTTP response, so the model server frees its slot.
        """
        ...

    async def models(self) -> list[ModelInfo]:
        """The models that the model server can serve now."""
        ...

    async def capacity(self) -> int:
        """How many requests the model server can run at once."""
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
    """A provider that can ask its model server for its health. The check runs no model."""

    async def healthy(self) -> None:
        """Return if the model server is healthy.

        Raises:
            LlmError: the model server does not answer, or reports that it cannot work.
        """
        ...


@runtime_checkable
class ReportsVersion(Protocol):
    """A provider that can ask its model server for its version."""

    async def version(self) -> str | None:
        """The model server's version; None if it does not report its version."""
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """A provider whose model server counts tokens with the model's tokenizer."""

    async def count_tokens(self, request: ChatRequest, model: str) -> int:
        """The number of tokens in the request's prompt, including those that the model's template adds.

        Raises:
            LlmError: the model server cannot count this prompt.
        """
        ...


@runtime_checkable
class Embeds(Protocol):
    """A provider that can embed texts, with models that have "embed" in their `capabilities`."""

    async def embed(self, inputs: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
        """One vector per input, in the order of the inputs. All have the same number of dimensions and Euclidean length
        1.

        Args:
            dimensions: the requested number of dimensions. Models with a fixed number ignore it.

        Raises:
            LlmError: as for `chat`; if one input fails, the whole call fails.
        """
        ...


@runtime_checkable
class Pulls(Protocol):
    """A provider that can download a model, through its model server or to this host."""

    def pull(self, model: str) -> AsyncGenerator[Progress, None]:
        """Download the model. When the generator ends, the model is complete and its digest has been checked.

        Cancellation: closing the generator stops the download. The partial download may stay on disk, for the next pull
        to resume, but is not served.

        Raises:
            ModelNotFound: no source has the model.
            DigestMismatch: the download does not match its digest.
            LlmError: the download failed.
        """
        ...


@runtime_checkable
class SuggestsAlternatives(Protocol):
    """A provider that suggests what to do instead of a model command that it does not support."""

    alternatives: ClassVar[Mapping[str, str]]
    """Advice in the imperative, by action."""


@runtime_checkable
class Verifies(Protocol):
    """A provider that can find out a model's digest."""

    async def verify(self, model: str) -> str:
        """The model's digest as `sha256:…`, or its revision if the model server reports only that. The digest is
        computed from the model's files if they are on this host; otherwise the model server reports it.

        Raises:
            ModelNotFound: the model is missing.
            DigestMismatch: its files have changed since they were downloaded.
        """
        ...


@runtime_checkable
class Loads(Protocol):
    """A provider whose model server can load and unload models on demand."""

    async def load(self, model: str) -> None:
        """Load the model, and return when it is ready. A model that is already loaded stays loaded.

        Cancellation: the model server may continue to load the model.

        Raises:
            ModelNotFound: the model is missing.
            LlmError: the model server has too little memory for the model, or cannot load it.
        """
        ...

    async def unload(self, model: str) -> None:
        """Unload the model, and return at once. The model server frees the memory when the model's running requests
        end. If the model is not loaded, nothing happens.

        Raises:
            ModelNotFound: the model is missing.
        """
        ...


@runtime_checkable
class MayLoad(Protocol):
    """A provider with the methods of `Loads` for a kind of model server that supports them only in some modes."""

    @property
    def can_load(self) -> bool:
        """Whether this server supports them, as far as it has been asked."""
        ...


def can_load(provider: LlmProvider) -> TypeGuard[Loads]:
    """Whether the provider's model server can load and unload models on demand."""
    return isinstance(provider, Loads) and not (isinstance(provider, MayLoad) and not provider.can_load)


@runtime_checkable
class KeepsKv(Protocol):
    """A provider that can keep a model's KV cache while the model is unloaded, if the lane's `keep_kv` is set."""

    keeps_kv: ClassVar[Literal[True]]
