"""Vectors for agents, and the guard that keeps those of different models apart."""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from pydantic import JsonValue

from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.errors import SpaceMismatch
from tokenlane.routing.contract.results import Vectors
from tokenlane.routing.contract.wire import Priority, new_id
from tokenlane.routing.decide.lanes.fallback import is_fallback

from .compose import compose_embed, refuse_unknown, texts_of
from .link.link import Composed, Link, opened
from .link.open_request import OpenRequest

_SPACES = 1_000


class EmbedOptions(TypedDict, total=False):
    """What may be asked of the model; what is left out is the back end's default. `fallback`: "error" for vectors of a
    lane that can embed, or none."""

    model: str | None
    provider: str | None
    dimensions: int | None
    fallback: Literal["error"] | None
    priority: Priority
    time_to_live_ms: int
    idempotency_key: str | None
    metadata: dict[str, JsonValue] | None


@dataclass(frozen=True)
class Embeddings:
    """A vector for each text, in their order, each of Euclidean length 1.

    Attributes:
        vectors: float32 each; an `array`, which numpy and others take as it is.
        dimensions: how many numbers each has.
        model: what made them. Only vectors of one model may be compared.
        is_fallback: no lane could embed, so the small fallback model did.
        metadata: the request's.
    """

    request_id: str
    vectors: list[array[float]] = field(repr=False)
    dimensions: int
    model: str
    lane: str
    usage: Usage
    metadata: dict[str, JsonValue] | None = field(default=None, repr=False)

    @property
    def is_fallback(self) -> bool:
        return is_fallback(self.lane)

    @property
    def vector(self) -> array[float]:
        """The only vector.

        Raises:
            ValueError: there are several.
        """
        (vector,) = self.vectors
        return vector


class Spaces:
    """Whose vectors the agents of a client have had for what they asked, so that none gets those of another model
    unawares."""

    def __init__(self) -> None:
        self._spaces: dict[tuple[object, ...], tuple[str, int]] = {}

    def check(
        self, found: Embeddings, agent: str, role: str, options: Mapping[str, object], *, allow_other_models: bool
    ) -> None:
        """Remember whose these are.

        Raises:
            SpaceMismatch: asked the same before, the agent was given another model's, and has not allowed that.
        """
        asked = (agent, role, *(options.get(name) for name in ("model", "provider", "dimensions")))
        space = (found.model.removesuffix(":latest"), found.dimensions)
        before = self._spaces.get(asked, space)
        if before != space and not allow_other_models:
            raise SpaceMismatch(
                f"these vectors, of {found.dimensions} dimensions, are of another model than those role {role!r} was "
                f"given before ({before[0]!r}, {before[1]}), and must not be compared with them: embed everything "
                "anew, ask for one model by name, or pass allow_other_models=True",
                lane=found.lane,
                model=found.model,
            )
        if len(self._spaces) >= _SPACES and asked not in self._spaces:
            del self._spaces[next(iter(self._spaces))]
        self._spaces[asked] = space


async def embed(
    link: Link,
    texts: str | Sequence[str],
    options: EmbedOptions,
    *,
    role: str,
    agent: str,
    meanwhile: Callable[[OpenRequest], AbstractAsyncContextManager[None]] = lambda _: nullcontext(),
) -> Embeddings:
    """Have texts embedded, and wait inside `meanwhile` for what comes of it.

    Raises:
        TypeError: there is no such option.
        LlmError: as `Client.embed`.
    """
    refuse_unknown(options, EmbedOptions)
    asked = {"id": new_id(), "role": role, "inputs": texts_of(texts), **options}

    def composed() -> Composed:
        return compose_embed(asked, agent=agent, client=link.client)

    async with opened(link, composed, options.get("idempotency_key")) as request, meanwhile(request):
        answer, result = await request.finish(), await request.result()
    assert isinstance(result, Vectors)
    data = array("f", b64decode(result.data))
    if sys.byteorder == "big":
        data.byteswap()
    vectors = [data[start : start + result.dimensions] for start in range(0, len(data), result.dimensions)]
    return Embeddings(
        request.id, vectors, result.dimensions, answer.model, answer.lane, answer.usage, options.get("metadata")
    )
