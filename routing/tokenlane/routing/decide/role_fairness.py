"""Fairness: the order in which a lane serves the queues of roles.

A lane serves queues of a higher priority first. On each lane, the roles of one priority take turns in proportion to
their weights, and the queues of one role take turns request by request. The agents of one queue take turns, too:
store/lua/shared/agent_fairness.lua orders their requests at submission and at dispatch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge

from .queue_key import PRIORITIES, Queue


@dataclass(frozen=True)
class RoleTurn:
    """The turns of a role, for one kind and priority. Its times are values of the pool's `sequence` counter.

    `began`: when the role began to wait. `lanes`: for each lane that has served the role since then, when the role's
    last turn on that lane ended (or `began`), and how many requests of its current turn the lane has served.
    """

    began: int = 0
    lanes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def at(self, lane: str) -> tuple[int, int]:
        """When the role's last turn on this lane ended, and how many requests of its current turn were served."""
        return self.lanes.get(lane, (self.began, 0))


@dataclass(frozen=True)
class Head:
    """One of the next requests of a queue.

    `attempt`: the newest attempt; 0 if there is none. `more`: whether more requests wait behind the queue's heads.
    `served`: when the queue was last served, as a value of the pool's `sequence` counter. `place`: how many heads of
    the queue come before this head. `turn`: the turns of its role. `suspect`: whether the request may have killed the
    workers that ran it, so that it must run alone.
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
    """The heads in the order in which a lane should serve them.

    Args:
        heads: only heads that the lane can serve: any other head would use up a turn of its role.
        weights: the weights of the roles; a missing role has weight 1.
    """
    of_roles: defaultdict[str, list[Head]] = defaultdict(list)
    for head in heads:
        of_roles[head.queue.turn].append(head)
    orders = [_ranked(group, weights.get(group[0].queue.role, 1), lane) for group in of_roles.values()]
    return (head for _, head in merge(*orders))


def _ranked(heads: list[Head], weight: int, lane: str) -> Iterator[tuple[tuple[int | str, ...], Head]]:
    """The heads that share a turn, in order, each with a sort key that ranks it among all heads."""
    rank, (ended, used) = PRIORITIES.index(heads[0].queue.priority), heads[0].turn.at(lane)
    heads.sort(key=lambda head: (head.place, head.served, -head.waited_ms, head.id))
    for number, head in enumerate(heads):
        yield (rank, (used + number) // weight, ended, number, -head.waited_ms, head.id), head
