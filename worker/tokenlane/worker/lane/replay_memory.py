"""Keeps the messages that attempts published, for agents that missed some of them."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from itertools import accumulate
from typing import TypeAlias

AttemptKey: TypeAlias = tuple[str, int]
"""Request id and attempt."""

KEPT_BYTES = 64 * 1024 * 1024
"""The limit of all kept messages together, those of running attempts included."""
REPLAY_BYTES = 1024 * 1024
"""The limit of one replay, since live output waits for it. The agent asks again for the rest."""


class ReplayMemory:
    """The messages of each attempt, until `kept_s` after its end."""

    def __init__(self, kept_s: float, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_s, self._most_bytes = kept_s, kept_bytes
        self._sent: dict[AttemptKey, deque[tuple[float, bytes]]] = {}
        self._ended: dict[AttemptKey, asyncio.TimerHandle] = {}
        self.bytes = 0

    def __contains__(self, attempt: AttemptKey) -> bool:
        return attempt in self._sent

    def open(self, attempt: AttemptKey) -> None:
        """Keep the messages that the attempt will publish."""
        self._sent[attempt] = deque()

    def keep(self, attempt: AttemptKey, end: float, message: bytes) -> None:
        """Keep a message that holds deltas up to position `end`.

        To make room, the attempts that ended longest ago are forgotten first, then this one's oldest messages.
        """
        sent = self._sent[attempt]
        sent.append((end, message))
        self.bytes += len(message)
        while self.bytes > self._most_bytes and self._ended:
            self.forget(next(iter(self._ended)))
        while self.bytes > self._most_bytes and sent:
            self.bytes -= len(sent.popleft()[1])

    def end(self, attempt: AttemptKey, message: bytes) -> None:
        """Keep the message that ended the attempt. Each replay ends with it."""
        self._ended[attempt] = asyncio.get_running_loop().call_later(self._kept_s, self.forget, attempt)
        self.keep(attempt, math.inf, message)

    def after(self, attempt: AttemptKey, position: int) -> list[bytes]:
        """The messages with deltas from `position` on, up to the limit of one replay."""
        messages = [message for end, message in self._sent.get(attempt, ()) if end > position]
        before = accumulate((len(message) for message in messages), initial=0)
        return [message for message, size in zip(messages, before, strict=False) if size < REPLAY_BYTES]

    def forget(self, attempt: AttemptKey) -> None:
        """Forget the attempt, if it is known."""
        self.bytes -= sum(len(message) for _, message in self._sent.pop(attempt, ()))
        if (timer := self._ended.pop(attempt, None)) is not None:
            timer.cancel()
