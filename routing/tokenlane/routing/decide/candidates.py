"""Which lanes may serve a request, best first, and with which model: the policy's routes, met with what lanes offer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.wire import Kind

from .lanes.fallback_lane import is_fallback, of_back_ends
from .lanes.offer import LaneView
from .policy import Candidate, Policy, RolePolicy


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
        return _avoided_last(((lane, needs.model or "") for lane in takers if lane.offer.limit_of(kind)), needs)
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
