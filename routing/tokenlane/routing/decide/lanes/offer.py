"""Lanes as they are announced by their workers and seen by routers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tokenlane.config.settings.values import FALLBACK_LANE
from tokenlane.routing.contract.messages import Kind, Progress

__all__ = [
    "LEFT_GRACE_MS",
    "UP",
    "Announcement",
    "Condition",
    "Facts",
    "Fault",
    "Hits",
    "LaneState",
    "LaneView",
    "Offer",
    "Running",
    "lane_state",
    "models_in",
]

_SAYS_NOTHING = ("chat",)
_models = TypeAdapter(tuple[str, ...])

LEFT_GRACE_MS = 60_000
"""How long a lane that was stopped counts as being restarted."""

LaneState = Literal["up", "degraded", "loading", "draining", "down", "left", "gone"]
"""`up`, `degraded`: it takes new work, with all of its workers or with some. `loading`: its back end loads a model.
`draining`: its workers stop. `down`: its back end cannot work, or its worker did not start what it was given. `left`,
`gone`: no worker beats, for it was stopped, or it vanished."""


@dataclass(frozen=True)
class Condition:
    """How a worker finds its back end. `why`: what keeps it from being up, for people."""

    state: Literal["up", "loading", "down"] = "up"
    why: str = ""


UP = Condition()


def lane_state(told: str, *, takes_new_work: bool, beats: bool) -> LaneState:
    """The state of a lane.

    Args:
        told: what the last beat said, in words of `LaneState`; '' if a worker of an older version said nothing.
        takes_new_work: some worker of it does.
        beats: some worker of it was heard of within a lease.
    """
    if takes_new_work:
        return "up"
    if not beats:
        return "left" if told == "draining" else "gone"
    return "loading" if told == "loading" else "draining" if told == "draining" else "down"


class Offer(BaseModel):
    """What a lane takes beside chat, and what its models can do.

    `abilities`: by model, as far as the back end says; a model that is not named can chat. `limits`: requests at once
    of the kinds other than chat; a kind that is not named is not served. `max_input_tokens`: the longest prompt, None
    if there is no limit.
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
        return ability in self.abilities.get(model, _SAYS_NOTHING)


@lru_cache(maxsize=256)
def models_in(document: str) -> tuple[str, ...] | None:
    """The models that a worker has announced, as JSON; None if that is not what it is."""
    try:
        return _models.validate_json(document)
    except ValidationError:
        return None


@dataclass(frozen=True)
class Announcement:
    """What a worker says of its lane with every beat. `limit`: chats the lane serves at once."""

    lane: str
    provider: str
    endpoint: str
    models: tuple[str, ...]
    limit: int
    offer: Offer = field(default_factory=Offer)

    def limit_of(self, kind: Kind) -> int:
        """Requests of that kind the lane serves at once; 0 if it serves none."""
        return self.limit if kind == "chat" else self.offer.limits.get(kind, 0)


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
class Hits:
    """What a worker's cache of vectors was asked for since it started: vectors that were there, and in all."""

    found: int = 0
    asked: int = 0


@dataclass(frozen=True)
class LaneView:
    """A lane as routers see it. `workers`: those that beat and take new work. `seen_ms` is server time.

    `limit` and `queued` are chat's; `beside`: what is queued of the other kinds. `left_ms`: since it was stopped in
    order; None for one that is there, and for one that vanished. `why`: what keeps its back end from working.
    """

    name: str
    provider: str
    endpoint: str
    models: tuple[str, ...]
    limit: int
    queued: int
    workers: int
    seen_ms: int
    offer: Offer = field(default_factory=Offer)
    beside: Mapping[Kind, int] = field(default_factory=dict)
    left_ms: int | None = None
    state: LaneState = "up"
    why: str = ""

    @property
    def live(self) -> bool:
        """Whether the lane takes new work."""
        return self.workers > 0

    @property
    def is_coming(self) -> bool:
        """Whether a worker waits for its back end, and does not know yet what that serves."""
        return self.is_unready and not self.models

    @property
    def is_unready(self) -> bool:
        """Whether workers of it beat, and it takes no work: its back end cannot, or they do not start what they get."""
        return self.state in ("loading", "down")

    @property
    def is_away(self) -> bool:
        """Whether no worker of it beats: they were stopped, or have vanished."""
        return self.state in ("left", "gone")

    @property
    def has_left(self) -> bool:
        """Whether it was stopped in order, and not just to be restarted."""
        return self.left_ms is not None and self.left_ms > LEFT_GRACE_MS

    @property
    def credit(self) -> int:
        """How many more chats the lane takes now."""
        return self.credit_for("chat")

    def credit_for(self, kind: Kind) -> int:
        """How many more requests of that kind the lane takes now."""
        if not self.live:
            return 0
        if kind == "chat":
            return max(0, self.limit - self.queued)
        return max(0, self.offer.limits.get(kind, 0) - self.beside.get(kind, 0))

    @property
    def is_fallback(self) -> bool:
        """Whether it is the lane that embeds where no other can."""
        return self.name == FALLBACK_LANE

    def models_for(self, kind: Kind) -> tuple[str, ...]:
        """Those of its models that can do that kind of work."""
        return tuple(model for model in self.models if self.offer.can(model, kind))
