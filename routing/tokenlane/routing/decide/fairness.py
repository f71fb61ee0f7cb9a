"""Queues: what waits together, and in which order queues are served.

All requests of a queue have the same role, kind, priority and needs, so the same lanes can serve them and nobody waits
behind another's special wish. Inside a queue agents take turns (`lua/shared/fairness.lua`). Between queues the higher
priority is served first; at each lane roles of one priority take turns as long as their weights (`take_turn`), and
within them their queues, one request each. `order` is the one place that says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from heapq import merge
from typing import get_args
from urllib.parse import quote, unquote

from tokenlane.routing.contract.envelope import Envelope, Needs
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.wire import Kind, Priority

_RANK: dict[Priority, int] = {priority: rank for rank, priority in enumerate(get_args(Priority))}


@dataclass(frozen=True)
class Queue:
    """What all requests of one queue have in common."""

    role: str
    kind: Kind
    priority: Priority
    needs: Needs

    @classmethod
    def of(cls, envelope: Envelope) -> Queue:
        """The queue a request belongs to."""
        return cls(envelope.role, envelope.kind, envelope.priority, envelope.needs)

    @cached_property
    def name(self) -> str:
        """The queue as part of key names: `role:kind:priority:size:provider:model`, and, where the needs say more,
        `:input:lane:can`, and `:avoid`. Provider and model are percent-encoded, what `can` and `avoid` say is joined by
        `+`."""
        needs = self.needs
        provider, model = quote(needs.provider or "", safe=""), quote(needs.model or "", safe="")
        name = f"{self.role}:{self.kind}:{self.priority}:{needs.size}:{provider}:{model}"
        if needs.input or needs.lane or needs.can or needs.avoid:
            name += f":{needs.input}:{needs.lane or ''}:{'+'.join(needs.can)}"
        if needs.avoid:
            name += f":{'+'.join(needs.avoid)}"
        return name

    @cached_property
    def turn(self) -> str:
        """Whose turns it shares: those of its role, kind and priority."""
        return f"{self.role}:{self.kind}:{self.priority}"

    @classmethod
    @lru_cache(maxsize=1024)  # routers meet the same few again and again
    def parse(cls, name: str) -> Queue:
        """The queue with that name.

        Raises:
            ValueError: it is not a queue's name.
        """
        role, kind, priority, size, provider, model, *more = name.split(":")
        if kind not in KINDS or priority not in _RANK:
            raise ValueError(f"not a queue: {name!r}")
        tokens, lane, can, *rest = more or ("0", "", "")
        (avoid,) = rest or ("",)
        needs = Needs(
            model=unquote(model) or None,
            provider=unquote(provider) or None,
            size=int(size),
            input=int(tokens),
            lane=lane or None,
            can=tuple(can.split("+")) if can else (),
            avoid=tuple(avoid.split("+")) if avoid else (),
        )
        return cls(role, kind, priority, needs)


@dataclass(frozen=True)
class Turn:
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
    turn: Turn = Turn()
    suspect: bool = False


def order(heads: Sequence[Head], weights: Mapping[str, int], lane: str) -> Iterator[Head]:
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
    rank, (ended, used) = _RANK[heads[0].queue.priority], heads[0].turn.at(lane)
    heads.sort(key=lambda head: (head.place, head.served, -head.waited_ms, head.id))
    for number, head in enumerate(heads):
        yield (rank, (used + number) // weight, ended, number, -head.waited_ms, head.id), head
