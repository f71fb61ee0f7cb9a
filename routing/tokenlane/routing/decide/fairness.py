"""Fairness: the order in which a lane serves the queues of roles, and where to find fairness between agents.

Within a queue, agents take turns by the tokens they use: store/lua/shared/fairness.lua does that when a request is
submitted and dispatched. Between queues, a higher priority is served first. At each lane, the roles of one priority
take turns in proportion to their weights, and a role's queues take turns of one request: `fair_order` does that here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge

from .queues import PRIORITIES, Queue


@dataclass(frozen=True)
class RoleTurn:
    """How far a role is with its turns, of one kind and priority.

    `began`: when it began to wait, as a dispatch sequence. `lanes`: for each that has served it since, when its turn
    there ended, or `began`, and how many were served of the turn it has now.
    """

    began: int = 0
    lanes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def at(self, lane: str) -> tuple[int, int]:
        """When its turn at this lane ended, and how much it had since."""
        return self.lanes.get(lane, (self.began, 0))


@dataclass(frozen=True)
class Head:
    """One of the requests that are next in their queue.

    `attempt`: its newest so far, 0 if none. `more`: others wait that are no heads. `served`: when its queue was last
    served, as a dispatch sequence. `place`: how many heads of its queue come before it. `turn`: its role's.
    `suspect`: workers died under it, and it is to run alone.
    """

    queue: Queue
    agent: str
    id: str
    attempt: int
    more: bool
    served: int
    waited_ms: int
    place: int = 0
    turn: RoleTurn = RoleTurn()
    suspect: bool = False


def fair_order(heads: Sequence[Head], weights: Mapping[str, int], lane: str) -> Iterator[Head]:
    """The heads in the order in which a lane is to serve them. All must be able to go there: one that could not would
    have a place among those of its role.

    Args:
        weights: of roles, where it is not 1.
    """
    of_roles: defaultdict[str, list[Head]] = defaultdict(list)
    for head in heads:
        of_roles[head.queue.turn].append(head)
    lines = [_line(those, weights.get(those[0].queue.role, 1), lane) for those in of_roles.values()]
    return (head for _, head in merge(*lines))


def _line(heads: list[Head], weight: int, lane: str) -> Iterator[tuple[tuple[int | str, ...], Head]]:
    """The heads that share a turn, in their order, each with its place among those of all."""
    rank, (ended, used) = PRIORITIES.index(heads[0].queue.priority), heads[0].turn.at(lane)
    heads.sort(key=lambda head: (head.place, head.served, -head.waited_ms, head.id))
    for number, head in enumerate(heads):
        yield (rank, (used + number) // weight, ended, number, -head.waited_ms, head.id), head
