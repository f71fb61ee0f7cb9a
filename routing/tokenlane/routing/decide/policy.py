"""Who may be served where: routes, limits and leases. Lives in the pool, with a revision; this module only decides.

A route is an ordered list of candidates. A lane serves a request through the first candidate that names it, and the
candidate says which of the lane's models is used. Without a route every role may use every lane.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.messages import Kind, Needs
from tokenlane.routing.contract.wire import Name

from .lanes.fallback import is_fallback, of_back_ends
from .lanes.offer import LaneView


class PolicyChanged(LlmError):
    """The pool's policy is not the one it was compared with: read it again, and compare anew."""

    code = "policy_changed"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Candidate(_Frozen):
    """A place a role may be served. What is None may be anything."""

    provider: str | None = None
    model: str | None = None
    lane: str | None = None

    def is_place_of(self, lane: LaneView) -> bool:
        """Whether the lane is of the provider and the name that are asked for, whatever it serves."""
        return self.lane in (None, lane.name) and self.provider in (None, lane.provider)


class Limits(_Frozen):
    """A role's own limits; None: those of the policy. `in_flight` counts all of an agent's requests, of every role."""

    depth: int | None = Field(default=None, ge=1)
    in_flight: int | None = Field(default=None, ge=1)


class RolePolicy(_Frozen):
    """What holds for one role. `weight`: how many of its requests are served where roles of weight 1 have one each."""

    route: tuple[Candidate, ...] = ()
    limits: Limits = Limits()
    weight: int = Field(default=1, ge=1)


class Policy(_Frozen):
    """The pool's policy. `revision` counts changes; 0 is the built-in default.

    `depth`: requests a role may hold at once, waiting and running. `in_flight`: the same for an agent.
    `start_lease_ms`: how long a lane may take to start what it was given. `lease_ms`: how long a running request
    survives without a beat of its worker. `orphan_ms`: the same for a request whose client has gone; clients
    beat every 2 s.
    `patience_ms`: how long a request waits for a lane nobody has heard of; longer, where the pool is new, or was away
    or lost just before, and workers that live may not have beaten since. `max_crashes`: workers a request may take down
    before it is given up. `max_starts`: times a request may be started in all.
    `fallback`: who embeds where no candidate can: the fallback lane, or nobody.
    """

    revision: int = 0
    roles: dict[Name, RolePolicy] = {}
    depth: int = Field(default=10_000, ge=1)
    in_flight: int = Field(default=10_000, ge=1)
    start_lease_ms: int = Field(default=2_000, ge=100)
    lease_ms: int = Field(default=10_000, ge=300)
    orphan_ms: int = Field(default=15_000, ge=8_000)
    patience_ms: int = Field(default=2_000, ge=0)
    max_crashes: int = Field(default=3, ge=1)
    max_starts: int = Field(default=8, ge=1)
    fallback: Literal["fasttext", "error"] = "fasttext"


def all_heard_ms(lease_ms: int) -> int:
    """Within so many milliseconds of its first sight of a pool everybody has heard of all workers that live: they beat
    three times a lease, and are given a second more."""
    return lease_ms // 3 + 1000


def candidates(
    policy: Policy, role: str, needs: Needs, lanes: Sequence[LaneView], kind: Kind = "chat"
) -> Iterator[tuple[LaneView, str]]:
    """The lanes that can serve a queue, best first, each with the model to use there.

    Order: the route's; within one candidate the lane with the most credit. Lanes to `avoid` come after all others, that
    which failed last at the end. A lane is named once. If some of
    their models can do all that the needs wish, the others are no candidates; if none can, or none says so, that
    decides nothing. A kind that follows no route goes to the lane it names, or to any that takes it. The fallback lane
    serves what names it, and what may fall back where no other lane could, whatever the length of the texts. A lane
    that has left keeps nothing from those two second choices; one that vanished does. One of which nobody knows yet
    what its back end will serve may serve anything: it keeps what waits from being refused, and nothing from the
    fallback.
    """
    there = [lane for lane in lanes if needs.lane in (None, lane.name)]
    there.sort(key=lambda lane: (-lane.credit_for(kind), lane.name))
    if not KINDS[kind].follows_routes:
        takers = there if needs.lane else of_back_ends(there)
        return _avoided_last(((lane, needs.model or "") for lane in takers if lane.offer.limits.get(kind, 0)), needs)
    found: dict[str, tuple[LaneView, str]] = {}
    for candidate in _route(policy, role):
        for lane in there:
            model = _model_for(candidate, needs, lane, kind)
            if model is not None:
                found.setdefault(lane.name, (lane, model))
    awaited = [place for place in found.values() if not (place[0].has_left or place[0].is_coming)]
    if not awaited and KINDS[kind].falls_back and policy.fallback != "error":
        return _avoided_last(list(_fallback(policy, role, needs, there, kind)) or found.values(), needs)
    able = [place for place in awaited if _can_all(*place, needs)] if needs.can else []
    return _avoided_last(able or found.values(), needs)


def _avoided_last(places: Iterable[tuple[LaneView, str]], needs: Needs) -> Iterator[tuple[LaneView, str]]:
    rank = {lane: number for number, lane in enumerate(needs.avoid, 1)}
    return iter(sorted(places, key=lambda place: rank.get(place[0].name, 0)))


def _fallback(
    policy: Policy, role: str, needs: Needs, lanes: Sequence[LaneView], kind: Kind
) -> Iterator[tuple[LaneView, str]]:
    """The fallback lane, unless something is asked for that it is not, or another lane would take shorter texts."""
    shorter, strict = needs.model_copy(update={"input": 0}), policy.model_copy(update={"fallback": "error"})
    chosen = needs.model or needs.provider or needs.lane
    others = [lane for lane in lanes if not (lane.has_left or lane.is_coming)]
    if not chosen and next(candidates(strict, role, shorter, others, kind), None) is None:
        yield from ((lane, lane.models[0]) for lane in lanes if is_fallback(lane.name) and lane.models)


def pullers(policy: Policy, role: str, needs: Needs, lanes: Sequence[LaneView]) -> Iterator[tuple[LaneView, str]]:
    """The live lanes that may pull a model for a queue that has no candidates, each with that model, best first."""
    able = [lane for lane in lanes if lane.state.takes_work and lane.offer.pulls and needs.lane in (None, lane.name)]
    for candidate in _route(policy, role):
        for lane in sorted(able, key=lambda lane: lane.name):
            model = _model_to_pull(candidate, needs, lane)
            if model is not None:
                yield lane, model


def may_use(policy: Policy, role: str, lane: LaneView, model: str | None = None) -> bool:
    """Whether a candidate of the role's route is this lane, with this model if one is given; it need not be up."""
    wanted = (candidate.model for candidate in _route(policy, role) if candidate.is_place_of(lane))
    return any(model is None or name is None or served_name(name, (model,)) is not None for name in wanted)


def _route(policy: Policy, role: str) -> tuple[Candidate, ...]:
    return policy.roles.get(role, RolePolicy()).route or (Candidate(),)


def _model_to_pull(candidate: Candidate, needs: Needs, lane: LaneView) -> str | None:
    if not candidate.is_place_of(lane) or needs.provider not in (None, lane.provider):
        return None
    named = {name for name in (candidate.model, needs.model) if name is not None}
    if len(named) > 1:
        return None
    lacks = lane.offer.lacks
    model = next(iter(named or lacks or ()), None)
    if model is None or served_name(model, lane.models) is not None:
        return None
    return model if lacks is None else served_name(model, lacks)


def _model_for(candidate: Candidate, needs: Needs, lane: LaneView, kind: Kind) -> str | None:
    if not candidate.is_place_of(lane) or needs.provider not in (None, lane.provider):
        return None
    if is_fallback(lane.name) and not _names(lane, candidate, needs):
        return None
    if lane.offer.max_input_tokens is not None and needs.input > lane.offer.max_input_tokens:
        return None
    if lane.is_coming:
        named = {name for name in (candidate.model, needs.model) if name is not None}
        return next(iter(named), "") if len(named) <= 1 else None
    models = lane.models_for(kind)
    wanted = [name for name in (candidate.model, needs.model) if name is not None]
    if not wanted:
        return next((model for model in models if _can_all(lane, model, needs)), next(iter(models), None))
    found = {served_name(name, models) for name in wanted}
    return found.pop() if len(found) == 1 else None


def _names(lane: LaneView, candidate: Candidate, needs: Needs) -> bool:
    return (
        lane.name in (candidate.lane, needs.lane)
        or lane.provider in (candidate.provider, needs.provider)
        or bool({candidate.model, needs.model} & {*lane.models})
    )


def _can_all(lane: LaneView, model: str, needs: Needs) -> bool:
    return all(lane.offer.can(model, ability) for ability in needs.can)


def served_name(model: str, served: Sequence[str]) -> str | None:
    """What a lane that serves these calls the model, if it has it. Ollama's tag `:latest` may be left out or added."""
    return next((name for name in (model, f"{model}:latest", model.removesuffix(":latest")) if name in served), None)
