"""The log of received requests, which tests read."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from .condition import Condition
from .model.answer import Part

KEPT = 10_000
"""Requests remembered."""

_SECRET = {"authorization", "cookie", "proxy-authorization"}

Ending = Literal["completed", "refused", "failed", "disconnected"]


@dataclass
class Received:
    """One request as it came in, what has been sent to it, and how it ended so far."""

    index: int
    body: bytes
    headers: dict[str, str]
    model: str
    peer: str
    """The connection it came over."""
    path: str = ""
    sent: int = 0
    """Tokens sent; of a pull, lines of progress."""
    held: bool = False
    ended: Ending | None = None
    released: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    cut: Callable[[], None] = field(default=lambda: None, repr=False)
    """Closes its connection."""
    parts: Sequence[str | Part] = field(default=(), repr=False)
    """The tokens there are to send."""
    prefill: str = field(default="", repr=False)
    """What its answer begins with already."""

    @property
    def text(self) -> str:
        """All that was sent so far: text, reasoning and arguments of tool calls, in order."""
        return "".join(part if isinstance(part, str) else part.text for part in self.parts[: self.sent])

    def end(self, how: Ending) -> None:
        """Record how the request ended."""
        self.ended = how
        self.parts = self.parts[: self.sent]

    def summary(self) -> dict[str, JsonValue]:
        """Return the entry of `/simulator/log`, without credentials."""
        return {
            "index": self.index,
            "path": self.path,
            "peer": self.peer,
            "headers": {name: value for name, value in self.headers.items() if name.lower() not in _SECRET},
            "body": self.body.decode("utf-8", "backslashreplace"),
            "model": self.model,
            "prefill": self.prefill,
            "text": self.text,
            "sent": self.sent,
            "held": self.held,
            "ended": self.ended,
        }


class Log(deque[Received]):
    """The last requests, oldest first."""

    def __init__(self) -> None:
        super().__init__(maxlen=KEPT)
        self.changed = Condition()

    async def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `condition` holds; it is looked at whenever a request comes, moves on or ends.

        Raises:
            TimeoutError: it did not in time.
        """
        async with asyncio.timeout(timeout_s):
            await self.changed.wait_for(condition)
