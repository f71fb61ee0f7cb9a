"""Queues: what waits together, and in which order queues are served.

All requests of a queue have the same role, kind, priority and needs, so the same lanes can serve them and nobody waits
behind another's special wish. Inside a queue agents take turns (`lua/common.lua`, `tag`). Between queues the higher
priority is served first; roles of one priority take turns as long as their weights (`take_turn`), and within them their
queues, one request each. `order` is the one place that says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import cast, get_args
from urllib.parse import quote, unquote

from .messages import Envelope, Kind, Needs, Priority

__all__ = ["Head", "Queue", "order"]

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
        `:input:lane:can`. Provider and model are percent-encoded, what `can` says is joined by `+`."""
        needs = self.needs
        provider, model = quote(needs.provider or "", safe=""), quote(needs.model or "", safe="")
        name = f"{self.role}:{self.kind}:{self.priority}:{needs.size}:{provider}:{model}"
        if needs.input or needs.lane or needs.can:
            name += f":{needs.input}:{needs.lane or ''}:{'+'.join(needs.can)}"
        return name

    @classmethod
    @lru_cache(maxsize=1024)  # routers meet the same few again and again
    def parse(cls, name: str) -> Queue:
        """The queue with that name.

        Raises:
            ValueError: it is not a queue's name.
        """
        role, kind, priority, size, provider, model, *more = name.split(":")
        if kind not in get_args(Kind) or priority not in _RANK:
            raise ValueError(f"not a queue: {name!r}")
        tokens, lane, can = more or ("0", "", "")
        needs = Needs(
            model=unquote(model) or None,
            provider=unquote(provider) or None,
            size=int(size),
            input=int(tokens),
            lane=lane or None,
            can=tuple(can.split("+")) if can else (),
        )
        return cls(role, cast("Kind", kind), priority, needs)


@dataclass(frozen=True)
class Head:
    """One of the requests that are next in their queue.

    `attempt`: its newest so far, 0 if none. `more`: others wait that are no heads. `served`: when its queue was last
    served, as a dispatch sequence. `place`: how many heads of its queue come before it. `turn`: when its role last had
    its turn, as a dispatch sequence; `used`: how many were served of the turn it has now.
    """

    queue: Queue
    agent: str
    id: str
    attempt: int
    more: bool
    served: int
    waited_ms: int
    place: int = 0
    turn: int = 0
    used: int = 0


def order(heads: Sequence[Head], weights: Mapping[str, int]) -> list[Head]:
    """The heads in the order in which they are to be served.

    Args:
        weights: of roles, where it is not 1.
    """
    of_roles: defaultdict[tuple[str, Kind, Priority], list[Head]] = defaultdict(list)
    for head in sorted(heads, key=lambda head: (head.place, head.served, -head.waited_ms, head.id)):
        of_roles[head.queue.role, head.queue.kind, head.queue.priority].append(head)
    rounds = {
        head.id: ((head.used + number) // weights.get(role, 1), head.turn, number)
        for (role, _, _), those in of_roles.items()
        for number, head in enumerate(those)
    }
    return sorted(heads, key=lambda head: (_RANK[head.queue.priority], *rounds[head.id], -head.waited_ms, head.id))
