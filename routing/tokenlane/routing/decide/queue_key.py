"""Queues of waiting requests, and their names in Redis keys.

All requests in a queue have the same role, kind, priority and needs, so the same lanes may serve them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import get_args
from urllib.parse import quote, unquote

from tokenlane.routing.contract.envelope import Envelope, Needs
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.wire import Kind, Priority

PRIORITIES: tuple[Priority, ...] = get_args(Priority)
"""All priorities, the highest first."""


@dataclass(frozen=True)
class Queue:
    """The properties that all requests of a queue share."""

    role: str
    kind: Kind
    priority: Priority
    needs: Needs

    @classmethod
    def of(cls, envelope: Envelope) -> Queue:
        """The queue of a request."""
        return cls(envelope.role, envelope.kind, envelope.priority, envelope.needs)

    @cached_property
    def name(self) -> str:
        """The queue's name in Redis keys: `role:kind:priority:size:provider:model`, then `:input:lane:can` if any of
        these or a later part is set, then `:avoid` if it or a later part is set, then `:continues:restarts` if the
        queue's requests continue an answer. Provider and models are percent-encoded; lists are joined with `+`."""
        needs = self.needs
        provider, model = quote(needs.provider or "", safe=""), quote(needs.model or "", safe="")
        name = f"{self.role}:{self.kind}:{self.priority}:{needs.size}:{provider}:{model}"
        if needs.input or needs.lane or needs.can or needs.avoid or needs.continues:
            name += f":{needs.input}:{needs.lane or ''}:{'+'.join(needs.can)}"
        if needs.avoid or needs.continues:
            name += f":{'+'.join(needs.avoid)}"
        if needs.continues:
            name += f":{quote(needs.continues, safe='')}:{int(needs.restarts)}"
        return name

    @cached_property
    def turn(self) -> str:
        """The key of the role's turns: `role:kind:priority`. All queues with the same three share their turns."""
        return f"{self.role}:{self.kind}:{self.priority}"

    @classmethod
    @lru_cache(maxsize=1024)  # routers parse the same few names again and again
    def parse(cls, name: str) -> Queue:
        """The queue with this name.

        Raises:
            ValueError: this is not the name of a queue.
        """
        role, kind, priority, size, provider, model, *more = name.split(":")
        if kind not in KINDS or priority not in PRIORITIES:
            raise ValueError(f"not a queue: {name!r}")
        tokens, lane, can, *rest = more or ("0", "", "")
        avoid, *rest = rest or ("",)
        continues, restarts = rest or ("", "0")
        needs = Needs(
            model=unquote(model) or None,
            provider=unquote(provider) or None,
            size=int(size),
            input=int(tokens),
            lane=lane or None,
            can=tuple(can.split("+")) if can else (),
            avoid=tuple(avoid.split("+")) if avoid else (),
            continues=unquote(continues) or None,
            restarts=restarts == "1",
        )
        return cls(role, kind, priority, needs)
