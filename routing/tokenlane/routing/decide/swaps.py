"""Computes the routes of a model swap: which routes of the policy change, and to what.

Each role remembers the route before its last swap, as `swapped_from`, so that any host can undo the swap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from tokenlane.config.settings.validation_messages import did_you_mean
from tokenlane.routing.contract.errors import BadRequest, ModelNotFound

from .candidates import may_serve, may_use, served_name
from .lanes.fallback_lane import of_model_servers
from .lanes.offer import LaneView
from .policy import Candidate, Policy, RolePolicy
from .policy_file import LANE_PREFIX

Routes: TypeAlias = Mapping[str, tuple[Candidate, ...]]
"""The routes to set, by role."""


class Target(NamedTuple):
    """What a swap is about: the whole route of one role, or the part of several roles' routes that leads to a lane."""

    roles: tuple[str, ...]
    lane: str | None = None

    def __str__(self) -> str:
        return f"role {self.roles[0]!r}" if self.lane is None else f"lane {self.lane!r}"


def find_target(name: str, policy: Policy, active_roles: Sequence[str], lanes: Sequence[LaneView]) -> Target:
    """Find the role or the lane of this name. `lane:NAME` is always a lane.

    Args:
        active_roles: roles with recent requests. The policy need not name them.

    Raises:
        BadRequest: there is no such role or lane; there are both; or no route in the policy leads to the lane.
    """
    roles, by_name = {*policy.roles, *active_roles}, {lane.name: lane for lane in of_model_servers(lanes)}
    lane = by_name.get(name.removeprefix(LANE_PREFIX))
    if name in roles and lane is not None:
        raise BadRequest(f"{name!r} is both a role and a lane: write {LANE_PREFIX}{name} for the lane, or rename one.")
    if name in roles:
        return Target((name,))
    if lane is None:
        names = sorted({*roles, *by_name})
        no_policy = "" if policy.revision else " The pool has no policy yet."
        raise BadRequest(
            f"The pool has no role and no lane {name!r}.{did_you_mean(name, names)} Roles and lanes: "
            f"{', '.join(names) or 'none'}.{no_policy}"
        )
    routed = tuple(role for role, rules in policy.roles.items() if rules.route and may_use(policy, role, lane))
    if not routed:
        raise BadRequest(
            f"No route in the pool's policy leads to lane {lane.name!r}: swap the model of a role, or give a role a "
            f'route with "{LANE_PREFIX}{lane.name}" by `tokenlane policy apply`.',
            lane=lane.name,
        )
    return Target(routed, lane.name)


def swapped_routes(policy: Policy, target: Target, model: str, lanes: Sequence[LaneView]) -> Routes:
    """The routes after which this model serves the target.

    - A role is served by this model alone: each entry of its route that leads to a lane with the model names the model
      now, and the other entries are left out.
    - A lane gets an entry of its own, with the model, in each route that leads to the lane; the other entries stay.

    Raises:
        ModelNotFound: no lane of the target offers the model for chats.
    """
    concerned = [lane for lane in lanes if target.lane in (None, lane.name)]
    able = [lane for lane in concerned if may_serve(lane, model)]
    routes = {role: _swapped(policy, role, target.lane, model, able) for role in target.roles}
    if all(routes.values()):
        return routes
    raise _not_offered(policy, target, model, lanes)


def _not_offered(policy: Policy, target: Target, model: str, lanes: Sequence[LaneView]) -> ModelNotFound:
    """The error for a model that no lane of the target offers, with what to do about it."""
    reachable = [
        lane
        for lane in of_model_servers(lanes)
        if target.lane in (None, lane.name) and any(may_use(policy, role, lane) for role in target.roles)
    ]
    elsewhere = [lane.name for lane in of_model_servers(lanes) if may_serve(lane, model) and lane not in reachable]
    embeds = [lane.name for lane in reachable if served_name(model, lane.models) is not None]
    offered = sorted({name for lane in reachable for name in lane.models_for("chat")})
    if embeds:
        advice = f"lane {embeds[0]!r} has the model, but not for chats: choose another one"
    elif elsewhere and target.lane is None:
        advice = (
            f"lane {elsewhere[0]!r} offers it, but the route does not lead there: add the lane to the route by "
            "`tokenlane policy apply`"
        )
    elif reachable:
        advice = (
            f"pull the model with `tokenlane models pull {model} --lane {reachable[0].name}`, or add it to the lane's "
            "models"
        )
    else:
        advice = "start a worker whose lane offers the model, and see `tokenlane lanes ls`"
    return ModelNotFound(
        f"No lane of {target} offers model {model!r} for chats, so nothing has changed: {advice}; offered models: "
        f"{', '.join(offered) or 'none'}.",
        model=model,
    )


def _swapped(
    policy: Policy, role: str, lane: str | None, model: str, able: Sequence[LaneView]
) -> tuple[Candidate, ...]:
    route = route_of(policy, role) or (Candidate(),)
    entries = _with_model(route, model, able) if lane is None else _with_entry_for(route, lane, model, able)
    return tuple(dict.fromkeys(entries))


def _with_model(route: Sequence[Candidate], model: str, able: Sequence[LaneView]) -> Iterator[Candidate]:
    for candidate in route:
        if places := [lane for lane in able if candidate.is_place_of(lane)]:
            is_same = all(_is_same(candidate.model, model, lane) for lane in places)
            yield candidate if is_same else candidate.model_copy(update={"model": model})


def _with_entry_for(route: Sequence[Candidate], lane: str, model: str, able: Sequence[LaneView]) -> Iterator[Candidate]:
    if not able:
        return
    first = next((candidate for candidate in route if candidate.is_place_of(able[0])), None)
    if first is not None and first.lane == lane and _is_same(first.model, model, able[0]):
        yield from route
        return
    is_inserted = False
    for candidate in route:
        if candidate.is_place_of(able[0]) and not is_inserted:
            is_inserted = True
            yield Candidate(lane=lane, model=model)
        if candidate.lane != lane:
            yield candidate


def _is_same(one: str | None, other: str, lane: LaneView) -> bool:
    """Whether two names stand for the same model of the lane."""
    name = None if one is None else served_name(one, lane.models)
    return name is not None and name == served_name(other, lane.models)


def routes_before(policy: Policy, target: Target) -> Routes:
    """The routes before the last swap of the target. A lane's are those of which the swap changed an entry that names
    the lane.

    Raises:
        BadRequest: the policy remembers no swap of the target.
    """
    routes = {}
    for role in target.roles:
        rules = policy.roles.get(role, RolePolicy())
        before = rules.swapped_from
        if before is None:
            continue
        if target.lane is None or _entries_of(target.lane, before) != _entries_of(target.lane, rules.route):
            routes[role] = before
    if not routes:
        raise BadRequest(
            f"The pool's policy remembers no swap of {target}, so there is none to undo: `tokenlane policy show` "
            "prints the routes, and `tokenlane policy apply` sets them."
        )
    return routes


def _entries_of(lane: str, route: Sequence[Candidate]) -> list[Candidate]:
    return [entry for entry in route if entry.lane == lane]


def route_of(policy: Policy, role: str) -> tuple[Candidate, ...]:
    """The role's route; empty if it may use every lane."""
    return policy.roles.get(role, RolePolicy()).route


def with_routes(policy: Policy, routes: Routes) -> Policy:
    """The policy with these routes. Each role remembers its route before."""
    roles = dict(policy.roles)
    for role, route in routes.items():
        rules = roles.get(role, RolePolicy())
        roles[role] = rules.model_copy(update={"route": route, "swapped_from": rules.route})
    return policy.model_copy(update={"roles": roles})
