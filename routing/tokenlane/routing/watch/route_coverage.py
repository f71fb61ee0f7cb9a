"""Finds which roles a policy routes to a lane, and writes the lines of llm.toml that would route another role to it."""

from __future__ import annotations

from dataclasses import dataclass

from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.decide.candidates import candidates
from tokenlane.routing.decide.lanes.offer import LaneView, Offer
from tokenlane.routing.decide.policy import Candidate, Policy
from tokenlane.routing.decide.policy_file import route_entry, section_key


@dataclass(frozen=True)
class RouteCoverage:
    """The roles whose route includes a lane (`routed`), and the roles whose route does not (`left_out`).

    A role without a route may use any lane and is in neither.
    """

    routed: tuple[str, ...]
    left_out: tuple[str, ...]


def route_coverage(policy: Policy, *, lane: str, provider: str, models: tuple[str, ...]) -> RouteCoverage:
    """Divide the roles that have a route by whether it includes the lane."""
    view = LaneView(lane, provider, "", models, Offer(limits={"chat": 1}))
    routes = sorted(name for name, role in policy.roles.items() if role.route)
    routed = tuple(name for name in routes if next(candidates(policy, name, Needs(), [view]), None))
    return RouteCoverage(routed, tuple(name for name in routes if name not in routed))


def lines_to_add(policy: Policy, role: str, *, provider: str, models: tuple[str, ...]) -> str:
    """The role's section of llm.toml with the lane's provider and first model added to its route."""
    more = Candidate(provider=provider, model=models[0] if models else None)
    entries = ", ".join(route_entry(candidate) for candidate in (*policy.roles[role].route, more))
    return f"[roles.{section_key(role)}]\nroute = [{entries}]"
