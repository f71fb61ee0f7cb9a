"""Finds the lanes that may serve a request, and the model to use on each, from the policy and the lanes' offers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.wire import Kind

from .lanes.fallback_lane import is_fallback, of_model_servers
from .lanes.offer import LaneView
from .lanes.state import LaneState
from .policy import Candidate, Policy, RolePolicy


def candidates(
    policy: Policy, role: str, needs: Needs, lanes: Sequence[LaneView], kind: Kind = "chat"
) -> Iterator[tuple[LaneView, str]]:
    """The lanes that may serve a queue, best first, each with the model to use there.

    - Order: the order of the route; lanes that match the same entry, by credit. Lanes in `needs.avoid` come last, the
      latest failed lane at the end. Each lane appears once.
    - Abilities: lanes whose model has every ability in `needs.can` are preferred. If no lane declares them, all remain.
    - A request of a kind that does not follow routes may use the lane that it names, or any lane that serves its kind.
    - A request that names its lane does not follow the role's route.
    - A request that names its model may also use the route before the last swap of the role's model.
    - The fallback lane serves requests that name it, and requests of a kind that falls back if no other lane could
      serve them even with shorter texts.
    - A lane that vanished is expected back, so it blocks the fallback and less capable lanes. A lane that was shut down
      is expected back for a minute; after that it is a candidate only if no lane of a model server is connected.
    - A lane whose model server has not answered yet might serve any request, so no request is refused while the pool
      has such a lane; but it does not block the fallback.
    - A request that continues an answer, with `needs.continues`, may only use the lanes that can continue it: see
      `_lanes_to_continue`.
    """
    if needs.continues is not None:
        return _lanes_to_continue(policy, role, needs, lanes, kind)
    is_served = any(not lane.state.is_away for lane in of_model_servers(lanes))
    open_to = [lane for lane in lanes if needs.lane in (None, lane.name) and not (is_served and lane.has_left)]
    open_to.sort(key=lambda lane: (-lane.credit_for(kind), lane.name))
    if not KINDS[kind].follows_routes:
        able = open_to if needs.lane else of_model_servers(open_to)
        return _avoided_last(((lane, needs.model or "") for lane in able if lane.offer.limit_of(kind)), needs)
    pairs: dict[str, tuple[LaneView, str]] = {}
    for candidate in _route_for(policy, role, needs):
        for lane in open_to:
            model = _model_for(candidate, needs, lane, kind)
            if model is not None:
                pairs.setdefault(lane.name, (lane, model))
    expected = [pair for pair in pairs.values() if not (pair[0].has_left or pair[0].is_coming)]
    if not expected and KINDS[kind].falls_back and policy.fallback != "error":
        return _avoided_last(list(_fallback_lane(policy, role, needs, open_to, kind)) or pairs.values(), needs)
    preferred = [pair for pair in expected if _has_abilities(*pair, needs)] if needs.can else []
    return _avoided_last(preferred or pairs.values(), needs)


def _lanes_to_continue(
    policy: Policy, role: str, needs: Needs, lanes: Sequence[LaneView], kind: Kind
) -> Iterator[tuple[LaneView, str]]:
    """The lanes that may continue the answer which the model `needs.continues` wrote, best first, each with its model.

    - The model must have the ability `prefill`. Lanes with the same model come first; lanes with other models are
      candidates only if the role's policy has `continue_with = "any"`.
    - A lane that has been away for longer than a restart is no candidate.
    - With `needs.restarts`, the lanes that may serve a new request are the candidates if no lane can continue the
      answer. A lane whose model server is down or has not answered yet does not block them.
    """
    able = {
        lane.name: lane for lane in lanes if not lane.is_long_away and (lane.is_coming or _models_to_continue(lane))
    }
    narrowed = [replace(lane, models=_models_to_continue(lane)) for lane in able.values()]
    anew = needs.model_copy(update={"continues": None})
    ways = [anew.model_copy(update={"model": needs.continues})]
    if policy.roles.get(role, RolePolicy()).continue_with == "any":
        ways.append(anew)
    pairs: dict[str, tuple[LaneView, str]] = {}
    for way in ways:
        for lane, model in candidates(policy, role, way, narrowed, kind):
            pairs.setdefault(lane.name, (able[lane.name], model))
    if needs.restarts and all(lane.is_coming or lane.state is LaneState.DOWN for lane, _ in pairs.values()):
        return candidates(policy, role, anew, lanes, kind)
    return _avoided_last(pairs.values(), needs)


def _models_to_continue(lane: LaneView) -> tuple[str, ...]:
    """The lane's models that can continue a partial answer."""
    return tuple(model for model in lane.models if lane.offer.can(model, "prefill"))


def _avoided_last(pairs: Iterable[tuple[LaneView, str]], needs: Needs) -> Iterator[tuple[LaneView, str]]:
    rank = {lane: number for number, lane in enumerate(needs.avoid, 1)}
    return iter(sorted(pairs, key=lambda pair: rank.get(pair[0].name, 0)))


def _fallback_lane(
    policy: Policy, role: str, needs: Needs, lanes: Sequence[LaneView], kind: Kind
) -> Iterator[tuple[LaneView, str]]:
    """The fallback lane with its model, unless the request names a model, provider or lane, or another lane would serve
    it if its texts were shorter."""
    shorter, strict = needs.model_copy(update={"input": 0}), policy.model_copy(update={"fallback": "error"})
    others = [lane for lane in lanes if not (lane.has_left or lane.is_coming)]
    if (
        not (needs.model or needs.provider or needs.lane)
        and next(candidates(strict, role, shorter, others, kind), None) is None
    ):
        yield from ((lane, lane.models[0]) for lane in lanes if is_fallback(lane.name) and lane.models)


def pullers(policy: Policy, role: str, needs: Needs, lanes: Sequence[LaneView]) -> Iterator[tuple[LaneView, str]]:
    """The lanes that may pull a model for a queue without candidates, best first, each with the model to pull. No lane
    pulls a model to continue an answer, since whether the model can do that is not known before the pull."""
    if needs.continues is not None and not needs.restarts:
        return
    able = [lane for lane in lanes if lane.state.accepts_work and lane.offer.pulls and needs.lane in (None, lane.name)]
    for candidate in _route_for(policy, role, needs):
        for lane in sorted(able, key=lambda lane: lane.name):
            model = _model_to_pull(candidate, needs, lane)
            if model is not None:
                yield lane, model


def may_use(policy: Policy, role: str, lane: LaneView, model: str | None = None) -> bool:
    """Whether the role's route leads to this lane, and to this model if one is given. The lane need not be up."""
    names = (candidate.model for candidate in _route(policy, role) if candidate.is_place_of(lane))
    return any(model is None or name is None or served_name(name, (model,)) is not None for name in names)


def _route(policy: Policy, role: str) -> tuple[Candidate, ...]:
    return policy.roles.get(role, RolePolicy()).route or (Candidate(),)


def _route_for(policy: Policy, role: str, needs: Needs) -> tuple[Candidate, ...]:
    """The entries that a request with these needs may use."""
    if needs.lane is not None:
        return (Candidate(),)
    route, before = _route(policy, role), policy.roles.get(role, RolePolicy()).swapped_from
    if needs.model is None or before is None:
        return route
    return (*route, *(before or (Candidate(),)))


def _leads_to(candidate: Candidate, needs: Needs, lane: LaneView) -> bool:
    return candidate.is_place_of(lane) and needs.provider in (None, lane.provider)


def _named_models(candidate: Candidate, needs: Needs) -> set[str]:
    return {name for name in (candidate.model, needs.model) if name is not None}


def _model_to_pull(candidate: Candidate, needs: Needs, lane: LaneView) -> str | None:
    names, lacks = _named_models(candidate, needs), lane.offer.lacks
    if not _leads_to(candidate, needs, lane) or len(names) > 1:
        return None
    model = next(iter(names or lacks or ()), None)
    if model is None or served_name(model, lane.models) is not None:
        return None
    return model if lacks is None else served_name(model, lacks)


def _model_for(candidate: Candidate, needs: Needs, lane: LaneView, kind: Kind) -> str | None:
    if not _leads_to(candidate, needs, lane) or (is_fallback(lane.name) and not _is_named(lane, candidate, needs)):
        return None
    if lane.offer.max_input_tokens is not None and needs.input > lane.offer.max_input_tokens:
        return None
    names = _named_models(candidate, needs)
    if lane.is_coming:
        return next(iter(names), "") if len(names) <= 1 else None
    models = lane.models_for(kind)
    if not names:
        return next((model for model in models if _has_abilities(lane, model, needs)), next(iter(models), None))
    served = {served_name(name, models) for name in names}
    return served.pop() if len(served) == 1 else None


def _is_named(lane: LaneView, candidate: Candidate, needs: Needs) -> bool:
    return (
        lane.name in (candidate.lane, needs.lane)
        or lane.provider in (candidate.provider, needs.provider)
        or bool({candidate.model, needs.model} & {*lane.models})
    )


def _has_abilities(lane: LaneView, model: str, needs: Needs) -> bool:
    return all(lane.offer.can(model, ability) for ability in needs.can)


def may_serve(lane: LaneView, model: str) -> bool:
    """Whether the lane serves the model for chats, or may pull it on demand."""
    pulled = lane.offer.pulls and (lane.offer.lacks is None or served_name(model, lane.offer.lacks) is not None)
    return pulled or served_name(model, lane.models_for("chat")) is not None


def is_same_model(one: str, other: str) -> bool:
    """Whether two names name the same model."""
    return served_name(one, (other,)) is not None


def served_name(model: str, served: Sequence[str]) -> str | None:
    """The name under which a lane serves this model; None if it does not. The tag `:latest` of Ollama's names is
    optional.

    Args:
        served: the names of the models that the lane serves.
    """
    return next((name for name in (model, f"{model}:latest", model.removesuffix(":latest")) if name in served), None)
