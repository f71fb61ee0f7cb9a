"""What a lane offers: as its workers announce it, and as routers know it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tokenlane.routing.contract.results import Progress
from tokenlane.routing.contract.wire import Kind

from .state import LaneFacts, LaneState, has_left, lane_state

_models = TypeAdapter(tuple[str, ...])


class Offer(BaseModel):
    """What a lane takes, how much of it at once, and what its models can do.

    `limits`: requests at once, by kind; a kind that is not named is not served. `abilities`: by model, as far as the
    back end says; a model that is not named can chat. `max_input_tokens`: the longest prompt, None if any will do.
    `pulls`: it pulls what it lacks and a request asks for; `lacks`: that alone, None for anything. `pulling`: what it
    pulls now; `unpulled`: what it lately tried to in vain, with the error's code.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    abilities: dict[str, tuple[str, ...]] = {}
    limits: dict[str, int] = {}
    max_input_tokens: int | None = None
    pulls: bool = False
    lacks: tuple[str, ...] | None = None
    pulling: dict[str, Progress] = {}
    unpulled: dict[str, str] = {}

    def can(self, model: str, ability: str) -> bool:
        """Whether a model of the lane can do that."""
        return ability in self.abilities.get(model, ("chat",))

    def limit_of(self, kind: Kind) -> int:
        """How many requests of that kind the lane serves at once; 0 if it serves none."""
        return self.limits.get(kind, 0)


@lru_cache(maxsize=256)
def offer_in(document: str) -> Offer | None:
    """The offer that a worker has announced, as JSON; None if that is not what it is."""
    try:
        return Offer.model_validate_json(document)
    except ValidationError:
        return None


@lru_cache(maxsize=256)
def models_in(document: str) -> tuple[str, ...] | None:
    """The models that a worker has announced, as JSON; None if that is not what it is."""
    try:
        return _models.validate_json(document)
    except ValidationError:
        return None


@dataclass(frozen=True)
class Announcement:
    """What a worker says of its lane with every beat."""

    lane: str
    provider: str
    endpoint: str
    models: tuple[str, ...]
    offer: Offer = field(default_factory=Offer)


@dataclass(frozen=True)
class Running:
    """A request a worker runs, with what the server needs to know it again should it have forgotten it."""

    id: str
    attempt: int
    client: str
    agent: str
    role: str
    kind: str
    left_ms: int


@dataclass(frozen=True)
class Facts:
    """What does not change while a worker lives, said once. `versions`: of `tokenlane`, `python`, `arq` and so on."""

    host: str
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """The newest error of a worker's back end: the error's code, never its text. `at`: by the loop's clock, in s."""

    code: str
    at: float


@dataclass(frozen=True)
class LaneView:
    """A lane as routers and clients know it.

    Args:
        queued: requests that were given to it and have not ended, by kind.
        facts: what is known of its workers.
        beat_ms: since the last beat of one of them.
        why: what keeps its back end from working.
        kept_for: the request that runs there alone or is next to, since workers died under it; '' if there is none.
        unread: those of `models`, `limit` and `offer` that cannot be read as they were announced.
    """

    name: str
    provider: str
    endpoint: str
    models: tuple[str, ...]
    offer: Offer
    queued: Mapping[Kind, int] = field(default_factory=dict)
    facts: LaneFacts = field(default_factory=LaneFacts)
    beat_ms: int = 0
    why: str = ""
    kept_for: str = ""
    unread: tuple[str, ...] = ()

    @cached_property
    def state(self) -> LaneState:
        """Its state."""
        return lane_state(self.facts)

    @property
    def is_coming(self) -> bool:
        """Whether a worker waits for its back end, and does not know yet what that serves."""
        return self.state.is_unready and not self.models

    @property
    def has_left(self) -> bool:
        """Whether it was stopped in order, and not just to be restarted."""
        return has_left(self.state, self.beat_ms)

    def credit_for(self, kind: Kind) -> int:
        """How many more requests of that kind it takes now."""
        return max(0, self.offer.limit_of(kind) - self.queued.get(kind, 0)) if self.state.takes_work else 0

    def models_for(self, kind: Kind) -> tuple[str, ...]:
        """Those of its models that can do that kind of work."""
        return tuple(model for model in self.models if self.offer.can(model, kind))
