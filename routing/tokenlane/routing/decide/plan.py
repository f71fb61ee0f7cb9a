"""The plan: decides from a survey of the pool which lane gets which waiting request."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import TypeAlias

from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.wire import Kind

from .candidates import candidates, pullers
from .lanes.gates import why_not
from .lanes.offer import LaneView
from .no_candidate import no_candidate_error, not_pulled
from .policy import Policy, all_heard_ms
from .queue_key import PRIORITIES
from .role_fairness import Head, fair_order

_Slots: TypeAlias = tuple[str, Kind]
_Options: TypeAlias = list[tuple[LaneView, str]]


@dataclass(frozen=True)
class Survey:
    """The heads of all queues, and all lanes, at one moment.

    `watched_ms`: for how long routers have watched the pool without a gap. It is short after a restart of the Redis
    server, when not all live workers have sent a beat yet. `pool`: the pool as messages name it.
    """

    now_ms: int
    revision: int
    heads: tuple[Head, ...]
    lanes: tuple[LaneView, ...]
    watched_ms: float = math.inf
    pool: str = "this pool"


@dataclass(frozen=True)
class Placement:
    """A request to dispatch to a lane, and the model to use."""

    head: Head
    lane: str
    model: str


@dataclass(frozen=True)
class Refusal:
    """A request to fail, because no lane can serve it."""

    head: Head
    error: LlmError


@dataclass(frozen=True)
class PullRequest:
    """A model for a lane to pull, because a waiting request needs it."""

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
        """All placements and refusals: each takes a head off its queue."""
        return self.placements + self.refusals


def plan(survey: Survey, policy: Policy, refused: Mapping[str, frozenset[str]] = MappingProxyType({})) -> Plan:
    """Choose lanes for the heads of all queues, starting with the highest priority.

    Each head asks the best of its lanes whose gates it passes. A lane accepts as many heads as it has credit for, in
    the order of `fair_order`; the remaining heads ask again. If more requests of one priority wait for a lane than the
    survey shows, the lane accepts no requests of the same kind with a lower priority.

    Args:
        refused: for the id of a request, the lanes that refused it at dispatch. The request does not ask them again.
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
    for priority in PRIORITIES:
        heads = left = [head for head in survey.heads if head.queue.priority == priority]
        while left and (asked := _group_by_best_lane(left, options, credit, refused)):
            for slots, group in asked.items():
                taken = list(islice(fair_order(group, weights, slots[0]), credit[slots]))
                placements += [_placement(head, slots[0], options) for head in taken]
                credit[slots] -= len(taken)
                placed |= {head.id for head in taken}
            left = [head for head in left if head.id not in placed]
        for head in heads:
            if head.more:
                credit |= {(lane.name, head.queue.kind): 0 for lane, _ in options[head.queue.name]}
            if not options[head.queue.name]:
                pull = _pull_or_refusal(head, policy, survey)
                if isinstance(pull, PullRequest):
                    pulls[pull] = None
                elif head.waited_ms >= policy.patience_ms and survey.watched_ms >= all_heard_ms(policy.lease_ms):
                    refusals.append(Refusal(head, pull))
    return Plan(tuple(placements), tuple(refusals), tuple(pulls))


def _group_by_best_lane(
    heads: Sequence[Head],
    options: Mapping[str, _Options],
    credit: dict[_Slots, int],
    refused: Mapping[str, frozenset[str]],
) -> dict[_Slots, list[Head]]:
    """The heads, grouped by the lane that each asks and by kind. A head that no lane accepts now is left out."""
    asked: defaultdict[_Slots, list[Head]] = defaultdict(list)
    best: dict[tuple[str, frozenset[str], str], _Slots | None] = {}
    for head in heads:
        name, refusers = head.queue.name, refused.get(head.id, frozenset())
        key = name, refusers, head.id if head.suspect else ""
        if key not in best:
            options_left = [lane for lane, _ in options[name] if lane.name not in refusers]
            best[key] = _best_lane(head, options_left, credit)
        if (slots := best[key]) is not None:
            asked[slots].append(head)
    return asked


def _best_lane(head: Head, lanes: Sequence[LaneView], credit: dict[_Slots, int]) -> _Slots | None:
    """The first lane whose gates the head passes. For a suspect without such a lane, the first lane that would accept
    it once empty: `dispatch` then keeps that lane free for it."""
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


def _pull_or_refusal(head: Head, policy: Policy, survey: Survey) -> PullRequest | LlmError:
    """The model to pull for a head without candidates, or the error with which to refuse the head."""
    queue, lanes = head.queue, survey.lanes
    if not KINDS[queue.kind].follows_routes:
        return no_candidate_error(queue, policy, lanes, survey.pool)
    possible = list(pullers(policy, queue.role, queue.needs, lanes))
    for lane, model in possible:
        if model not in lane.offer.unpulled:
            return PullRequest(lane.name, model)
    return not_pulled(*possible[0]) if possible else no_candidate_error(queue, policy, lanes, survey.pool)
