"""The log of received requests, for tests."""

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
"""The number of requests that the log keeps."""

_SECRET = {"authorization", "cookie", "proxy-authorization"}

Ending = Literal["completed", "refused", "failed", "disconnected"]


@dataclass
class Received:
    """A received request, what was sent in answer to it, and how it ended."""

    index: int
    body: bytes
    headers: dict[str, str]
    model: str
    peer: str
    """The client's address."""
    path: str = ""
    sent: int = 0
    """The number of tokens sent, or for a pull the number of lines of progress."""
    held: bool = False
    """Whether the answer waits to be released."""
    ended: Ending | None = None
    """How the request ended; None: it has not ended."""
    released: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    cut: Callable[[], None] = field(default=lambda: None, repr=False)
    """Closes the connection."""
    parts: Sequence[str | Part] = field(default=(), repr=False)
    """The tokens of the answer; once the request has ended, those that were sent."""
    prefill: str = field(default="", repr=False)
    """The beginning of the answer, which the request contains."""

    @property
    def text(self) -> str:
        """The text, reasoning and arguments of tool calls that were sent so far, in order."""
        return "".join(part if isinstance(part, str) else part.text for part in self.parts[: self.sent])

    def end(self, how: Ending) -> None:
        """Record how the request ended."""
        self.ended = how
        self.parts = self.parts[: self.sent]

    def summary(self) -> dict[str, JsonValue]:
        """Return the entry for `/simulator/log`, without credentials."""
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
    """The last requests, the oldest first."""

    def __init__(self) -> None:
        super().__init__(maxlen=KEPT)
        self.changed = Condition()

    async def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `condition` returns True. It is called again when a request arrives, is held, or ends.

        Raises:
            TimeoutError: `condition` was not true in time.
        """
        async with asyncio.timeout(timeout_s):
            await self.changed.wait_for(condition)
