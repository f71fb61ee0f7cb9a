"""One request under way: what was sent, what came back, and when something was last heard."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tokenlane.routing.contract.errors import ProviderDown
from tokenlane.routing.contract.messages import Envelope, Result

from .delta_buffer import DeltaBuffer

__all__ = ["LACKING_EVERY_S", "UNCERTAIN_EVERY_S", "OpenRequest", "Question"]

LACKING_EVERY_S = 0.5
UNCERTAIN_EVERY_S = 2.0


@dataclass
class Question:
    """A replay asked of a worker, again every `every_s` until it is answered. `since`: when it was first sent."""

    worker: str
    attempt: int
    every_s: float
    due: float = 0
    since: float | None = None


@dataclass(eq=False)
class OpenRequest:
    """The link between a stream and its client, which knows no stream. All times are the loop's.

    `copy`: what is sent again should the pool lose it; None where another client has sent it. `owned`: leaving it
    cancels the request, and it is this one that tells later attempts how far the agent has got.
    `uncertain`: messages may have been lost. `waiting`: why the request has not started, for people.
    `submission`: gives the error that `submit` or `attach` ended in, or None. `known_as`: the id it was accepted under,
    another one if a request with its idempotency key still runs. `withdrawal`: tells the pool that nobody wants it.
    `broken_since`: when the attempt that gave a part of the answer was seen to be over.
    """

    id: str
    role: str
    copy: tuple[Envelope, bytes] | None = field(repr=False)
    buffer: DeltaBuffer = field(repr=False)
    deadline: float
    heard_at: float
    waiting: str | None = None
    owned: bool = True
    uncertain: bool = False
    question: Question | None = None
    missing_since: float | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)
    submission: asyncio.Task[Exception | None] | None = field(default=None, repr=False)
    known_as: str = ""
    withdrawal: asyncio.Task[None] | None = field(default=None, repr=False)
    opened_at: float = 0
    broken_since: float | None = None

    @property
    def accepted(self) -> bool:
        """Whether the pool has taken the request in."""
        return self.submission is not None and self.submission.done()

    def ask(self, worker: str, attempt: int, every_s: float) -> None:
        """Have all that has not come asked of a worker, if one is known."""
        if not worker:
            return
        if self.question is None or (self.question.worker, self.question.attempt) != (worker, attempt):
            self.question = Question(worker, attempt, every_s)
        self.question.every_s = every_s

    def heard(self, now: float, *, progress: bool) -> None:
        """A message came; `progress`: with something new."""
        self.heard_at = now
        self.waiting = None
        self.missing_since = self.broken_since = None
        if self.buffer.lacking:
            if progress:
                self.question = None
            self.ask(self.buffer.worker, self.buffer.attempt, LACKING_EVERY_S)
        elif progress:
            self.question = None
            self.uncertain = False

    def missed(self) -> None:
        """The connection was lost for a while: messages may be missing."""
        self.heard_at = float("-inf")
        self.uncertain = True
        self.ask(self.buffer.worker, self.buffer.attempt, UNCERTAIN_EVERY_S)

    async def result(self) -> Result:
        """Wait for the end; what came of a request that is no chat.

        Raises:
            LlmError: what it failed with.
        """
        buffer = self.buffer
        while not buffer.ended:
            await self.change()
        if buffer.error is not None:
            raise buffer.error
        if buffer.result is None:
            raise ProviderDown(
                "the lane's worker does not know this kind of request: start a newer one", retryable=False
            )
        return buffer.result

    async def change(self) -> None:
        """Wait until something has come or the request has ended."""
        self.changed.clear()
        await self.changed.wait()
