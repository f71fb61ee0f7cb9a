"""Keeps published messages for agents that missed some of them, and notes which endings nobody received."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from itertools import accumulate

from .attempt_key import AttemptKey

KEPT_BYTES = 64 * 1024 * 1024
"""The limit for all kept messages together, including those of running attempts."""
REPLAY_BYTES = 1024 * 1024
"""The limit for one replay, because live output waits for it. The agent then asks for the rest."""


class ReplayMemory:
    """The published messages of each attempt, kept until `kept_s` seconds after its end."""

    def __init__(self, kept_s: float, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_s, self._most_bytes = kept_s, kept_bytes
        self._sent: dict[AttemptKey, deque[tuple[float, bytes]]] = {}
        self._ended: dict[AttemptKey, asyncio.TimerHandle] = {}
        self.bytes = 0

    def __contains__(self, attempt: AttemptKey) -> bool:
        return attempt in self._sent

    def open(self, attempt: AttemptKey) -> None:
        """Begin to keep the messages of an attempt."""
        self._sent[attempt] = deque()

    def keep(self, attempt: AttemptKey, end: float, message: bytes) -> None:
        """Keep a message whose deltas end before position `end`.

        To make room, the attempts that ended first are forgotten, and then the oldest messages of this attempt.
        """
        sent = self._sent[attempt]
        sent.append((end, message))
        self.bytes += len(message)
        while self.bytes > self._most_bytes and self._ended:
            self.forget(next(iter(self._ended)))
        while self.bytes > self._most_bytes and sent:
            self.bytes -= len(sent.popleft()[1])

    def end(self, attempt: AttemptKey, message: bytes) -> None:
        """Keep the message that ended the attempt. It comes last in each replay."""
        self._ended[attempt] = asyncio.get_running_loop().call_later(self._kept_s, self.forget, attempt)
        self.keep(attempt, math.inf, message)

    def after(self, attempt: AttemptKey, position: int) -> list[bytes]:
        """The messages with deltas at or after `position`, up to `REPLAY_BYTES`."""
        messages = [message for end, message in self._sent.get(attempt, ()) if end > position]
        before = accumulate((len(message) for message in messages), initial=0)
        return [message for message, size in zip(messages, before, strict=False) if size < REPLAY_BYTES]

    def forget(self, attempt: AttemptKey) -> None:
        """Delete the attempt's messages, if there are any."""
        self.bytes -= sum(len(message) for _, message in self._sent.pop(attempt, ()))
        if (timer := self._ended.pop(attempt, None)) is not None:
            timer.cancel()


class MissedEndings:
    """The attempts whose last message nobody received, and no agent has asked for since.

    Args:
        missed_s: how long after the end an agent may need to connect again and to ask. An agent that takes longer is
            probably gone.
    """

    def __init__(self, missed_s: float) -> None:
        self._missed_s = missed_s
        self._ended_at: dict[AttemptKey, float] = {}
        self._none_left = asyncio.Event()

    def __contains__(self, attempt: AttemptKey) -> bool:
        return attempt in self._ended_at

    def add(self, attempt: AttemptKey) -> None:
        """Note that nobody received the last message of this attempt."""
        now = asyncio.get_running_loop().time()
        self._ended_at = {each: at for each, at in self._ended_at.items() if at > now - self._missed_s}
        self._ended_at[attempt] = now

    def discard(self, attempts: Iterable[AttemptKey]) -> None:
        """Note that the messages of these attempts were published again, because their agents asked for them."""
        for attempt in attempts:
            self._ended_at.pop(attempt, None)
        if not self._ended_at:
            self._none_left.set()

    def give_up(self) -> None:
        """Wait no longer."""
        self.discard(tuple(self._ended_at))

    async def wait(self) -> None:
        """Wait until the agents have asked for their endings, or have had the time to do so."""
        self._none_left.clear()
        if self._ended_at:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(max(self._ended_at.values()) + self._missed_s):
                    await self._none_left.wait()
