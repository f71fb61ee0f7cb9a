"""The offer of a lane, that is its models, abilities and limits: as workers announce it, and as routers see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tokenlane.routing.contract.results import Progress
from tokenlane.routing.contract.wire import Kind

from .state import RESTART_MS, LaneState, LaneWorkers, has_left, lane_state

_models = TypeAdapter(tuple[str, ...])


class Offer(BaseModel):
    """The kinds of work that a lane serves, its limits, and the abilities of its models.

    `limits`: how many requests of each kind the lane serves at once; it does not serve other kinds. `abilities`: the
    abilities of each model, if the model server reports them; a model without an entry can only chat.
    `max_input_tokens`: the size of the longest prompt that the lane accepts; None: no limit. `pulls`: whether the lane
    pulls missing models that requests need. `lacks`: the missing models that it may pull; None: any model. `pulling`:
    the progress of current pulls, by model. `unpulled`: the error code of recent pulls that failed, by model.
    `not_as_pinned`: the pinned models that the model server has and the lane does not serve, each with the reason.
    `unsupported`: the model commands that the lane cannot carry out, such as `load`, each with what to do instead;
    empty from workers of older versions, which refuse such a command only when they get it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    abilities: dict[str, tuple[str, ...]] = {}
    limits: dict[str, int] = {}
    max_input_tokens: int | None = None
    pulls: bool = False
    lacks: tuple[str, ...] | None = None
    pulling: dict[str, Progress] = {}
    unpulled: dict[str, str] = {}
    not_as_pinned: dict[str, str] = {}
    unsupported: dict[str, str] = {}

    def can(self, model: str, ability: str) -> bool:
        """Whether this model of the lane has this ability."""
        return ability in self.abilities.get(model, ("chat",))

    def limit_of(self, kind: Kind) -> int:
        """How many requests of that kind the lane serves at once; 0 if it serves none."""
        return self.limits.get(kind, 0)


@lru_cache(maxsize=256)
def parse_offer(document: str) -> Offer | None:
    """Parse an announced offer; None if this version cannot parse it."""
    try:
        return Offer.model_validate_json(document)
    except ValidationError:
        return None


@lru_cache(maxsize=256)
def parse_models(document: str) -> tuple[str, ...] | None:
    """Parse an announced list of models; None if this version cannot parse it."""
    try:
        return _models.validate_json(document)
    except ValidationError:
        return None


@dataclass(frozen=True)
class Announcement:
    """What a worker announces about its lane with every beat."""

    lane: str
    provider: str
    endpoint: str
    models: tuple[str, ...]
    offer: Offer = field(default_factory=Offer)


@dataclass(frozen=True)
class Running:
    """A request that a worker runs, with everything that the Redis server needs to restore it after a loss of data."""

    id: str
    attempt: int
    client: str
    agent: str
    role: str
    kind: str
    left_ms: int


@dataclass(frozen=True)
class WorkerInfo:
    """Facts about a worker that do not change. `versions`: the versions of `tokenlane`, `python`, `arq` and so on."""

    host: str
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerFailure:
    """The latest error from a worker's model server. It has no text, which might quote a prompt. `at`: when the error
    happened, in seconds on the event loop's clock."""

    code: str
    at: float


@dataclass(frozen=True)
class LaneView:
    """A lane as routers and clients see it.

    Args:
        queued: how many requests are dispatched to the lane or running there, by kind.
        facts: what the pool knows about the lane's workers.
        beat_ms: the time since the latest beat of any of its workers.
        why: why its model server cannot work, or that an operator drained the lane; '' if neither is so.
        reserved_for: the id of the suspect that runs alone on the lane, or is next to; '' if there is none.
        unread: the names of the fields, of `models`, `limit` and `offer`, that this version cannot parse.
    """

    name: str
    provider: str
    endpoint: str
    models: tuple[str, ...]
    offer: Offer
    queued: Mapping[Kind, int] = field(default_factory=dict)
    facts: LaneWorkers = field(default_factory=LaneWorkers)
    beat_ms: int = 0
    why: str = ""
    reserved_for: str = ""
    unread: tuple[str, ...] = ()

    @cached_property
    def state(self) -> LaneState:
        """The lane's state."""
        return lane_state(self.facts)

    @property
    def is_drained(self) -> bool:
        """Whether an operator drained the lane. Until the operator resumes it, it gets no new work."""
        return self.facts.is_drained

    @property
    def is_closed(self) -> bool:
        """Whether its workers are alive but it accepts no work: because of its model server, because no request starts,
        or because an operator drained it."""
        return self.state.is_unready or (self.is_drained and not self.state.is_away)

    @property
    def is_coming(self) -> bool:
        """Whether the lane's worker still waits for its model server, and does not know its models yet."""
        return self.state.is_unready and not self.models

    @property
    def has_left(self) -> bool:
        """Whether the lane was shut down, and not just for a restart."""
        return has_left(self.state, self.beat_ms)

    @property
    def is_long_away(self) -> bool:
        """Whether none of the lane's workers has been alive for longer than a restart takes."""
        return self.state.is_away and self.beat_ms > RESTART_MS

    def credit_for(self, kind: Kind) -> int:
        """How many more requests of that kind the lane accepts now."""
        return max(0, self.offer.limit_of(kind) - self.queued.get(kind, 0)) if self.state.accepts_work else 0

    def models_for(self, kind: Kind) -> tuple[str, ...]:
        """The lane's models that can do that kind of work."""
        return tuple(model for model in self.models if self.offer.can(model, kind))
