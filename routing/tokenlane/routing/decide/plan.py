"""The plan: which lane takes which of the requests that wait. Decides on a survey, and does nothing about it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import TypeAlias, get_args

from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.wire import Kind, Priority

from .candidates import candidates, pullers
from .fairness import Head, order
from .lanes.gates import why_not
from .lanes.offer import LaneView
from .no_candidate import nobody, not_pulled
from .policy import Policy, all_heard_ms

_PRIORITIES: tuple[Priority, ...] = get_args(Priority)

_NOBODY: frozenset[str] = frozenset()

_Slots: TypeAlias = tuple[str, Kind]
_Options: TypeAlias = list[tuple[LaneView, str]]


@dataclass(frozen=True)
class Survey:
    """What routers decide on, all of one moment. `watched_ms`: for how long the pool has been looked at without a gap:
    lanes that live may not have been heard of since a server came back or was wiped."""

    now_ms: int
    revision: int
    heads: tuple[Head, ...]
    lanes: tuple[LaneView, ...]
    watched_ms: float = math.inf


@dataclass(frozen=True)
class Placement:
    """A request that a lane is to have, and the model to use there."""

    head: Head
    lane: str
    model: str


@dataclass(frozen=True)
class Refusal:
    """A request that no lane can serve, and why."""

    head: Head
    error: LlmError


@dataclass(frozen=True)
class PullRequest:
    """A model that a lane is to pull for a request that waits."""

    lane: str
    model: str


@dataclass(frozen=True)
class Plan:
    """What to do with the heads of one survey."""

    placements: tuple[Placement, ...]
    refusals: tuple[Refusal, ...]
    pulls: tuple[PullRequest, ...] = ()

    @property
    def all(self) -> tuple[Placement | Refusal, ...]:
        """Everything that takes a head off its queue."""
        return self.placements + self.refusals


def plan(survey: Survey, policy: Policy, refused: Mapping[str, frozenset[str]] = MappingProxyType({})) -> Plan:
    """Choose lanes for the heads of all queues, those of the highest priority first.

    Each asks for the best of its lanes that all gates let it start on. A lane takes as many as it has credit for, in
    the order of `order`; who is left asks again. A lane for which more of a priority waits than could be chosen now is
    left alone by lower ones of that kind.

    Args:
        refused: by request, the lanes that refused it at dispatch; it asks the others.
    """
    weights = {name: role.weight for name, role in policy.roles.items()}
    options: dict[str, _Options] = {}
    for queue in {head.queue.name: head.queue for head in survey.heads}.values():
        options[queue.name] = list(candidates(policy, queue.role, queue.needs, survey.lanes, queue.kind))
    credit: dict[_Slots, int] = {}
    placements: list[Placement] = []
    placed: set[str] = set()
    refusals: list[Refusal] = []
    pulls: dict[PullRequest, None] = {}
    for priority in _PRIORITIES:
        heads = left = [head for head in survey.heads if head.queue.priority == priority]
        while left and (asked := _asked(left, options, credit, refused)):
            for slots, those in asked.items():
                taken = list(islice(order(those, weights, slots[0]), credit[slots]))
                placements += [_placement(head, slots[0], options) for head in taken]
                credit[slots] -= len(taken)
                placed |= {head.id for head in taken}
            left = [head for head in left if head.id not in placed]
        for head in heads:
            if head.more:
                credit |= {(lane.name, head.queue.kind): 0 for lane, _ in options[head.queue.name]}
            if not options[head.queue.name]:
                pull = _pull_or_refusal(head, policy, survey.lanes)
                if isinstance(pull, PullRequest):
                    pulls[pull] = None
                elif head.waited_ms >= policy.patience_ms and survey.watched_ms >= all_heard_ms(policy.lease_ms):
                    refusals.append(Refusal(head, pull))
    return Plan(tuple(placements), tuple(refusals), tuple(pulls))


def _asked(
    heads: Sequence[Head],
    options: Mapping[str, _Options],
    credit: dict[_Slots, int],
    refused: Mapping[str, frozenset[str]],
) -> dict[_Slots, list[Head]]:
    """The heads by what each asks for; without those that wait for all of their lanes."""
    asked: defaultdict[_Slots, list[Head]] = defaultdict(list)
    best: dict[tuple[str, frozenset[str], str], _Slots | None] = {}
    for head in heads:
        name, refusers = head.queue.name, refused.get(head.id, _NOBODY)
        key = name, refusers, head.id if head.suspect else ""
        if key not in best:
            options_left = [lane for lane, _ in options[name] if lane.name not in refusers]
            best[key] = _best(head, options_left, credit)
        if (slots := best[key]) is not None:
            asked[slots].append(head)
    return asked


def _best(head: Head, lanes: Sequence[LaneView], credit: dict[_Slots, int]) -> _Slots | None:
    """The first lane that all gates let it start on; for a suspect else one that `dispatch` then keeps free for it."""
    to_empty = None
    for lane in lanes:
        slots = lane.name, head.queue.kind
        if credit.setdefault(slots, lane.credit_for(head.queue.kind)) <= 0:
            continue
        reason = why_not(head, lane)
        if reason is None:
            return slots
        if reason == "occupied":
            to_empty = to_empty or slots
    return to_empty


def _placement(head: Head, name: str, options: Mapping[str, _Options]) -> Placement:
    model = next(model for lane, model in options[head.queue.name] if lane.name == name)
    return Placement(head, name, model)


def _pull_or_refusal(head: Head, policy: Policy, lanes: Sequence[LaneView]) -> PullRequest | LlmError:
    """What is to be pulled for a head without candidates; why nothing is."""
    queue = head.queue
    if not KINDS[queue.kind].follows_routes:
        return nobody(queue, policy, lanes)
    found = list(pullers(policy, queue.role, queue.needs, lanes))
    for lane, model in found:
        if model not in lane.offer.unpulled:
            return PullRequest(lane.name, model)
    return not_pulled(*found[0]) if found else nobody(queue, policy, lanes)
