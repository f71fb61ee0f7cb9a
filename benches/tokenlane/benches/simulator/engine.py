"""The engine of the simulator: slots and their queue, the loading of models, and answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace

from .fault_script import FaultScript
from .http.clock import Clock
from .http.player import Player
from .model.answer import Ask, ConversationTurn, SimulatedAnswer, simulate_answer
from .model.models import Instance, Model, SimulatedModels
from .model.refusals import Refused
from .request_log import Received


@dataclass(frozen=True)
class Pace:
    """The speed of the engine.

    Args:
        first_s: the time from the start in a slot to the first token.
        next_s: the time between tokens.
        pull_s: the time for a pull, whatever the size of the model.
    """

    first_s: float = 0
    next_s: float = 0
    pull_s: float = 0


@dataclass
class Counts:
    """The counters for a server's metrics."""

    prompt_tokens: int = 0
    tokens: int = 0
    finished: dict[str, int] = field(default_factory=dict)
    """The number of answers by finish reason."""
    dropped: int = 0
    """The number of requests whose client disconnected."""
    refused: int = 0
    """The number of requests that found the queue full."""
    first_s: float = 0
    """The sum of all times to the first token."""

    @property
    def answers(self) -> int:
        """The number of finished answers."""
        return sum(self.finished.values())


class Engine:
    """Serves requests from slots.

    Args:
        capacity: the number of slots.
        queue: how many requests may wait for a slot; None: no limit.
        tokens: the number of tokens in an ordinary answer.
        seed: the seed of the text; None: the text is numbered words.
    """

    def __init__(
        self, models: SimulatedModels, pace: Pace, *, capacity: int, queue: int | None, tokens: int, seed: int | None
    ) -> None:
        self.models, self.pace = models, pace
        self.capacity, self.queue, self.tokens, self.seed = capacity, queue, tokens, seed
        self.clock = Clock()
        self.counts = Counts()
        self.slots: list[Received | None] = [None] * capacity
        self.waiting = 0
        self.sleeping = False
        self._freed = asyncio.Semaphore(capacity)
        self._players: dict[Player, None] = {}

    @property
    def running(self) -> int:
        """The number of slots in use."""
        return sum(slot is not None for slot in self.slots)

    @contextmanager
    def playing(self, player: Player) -> Iterator[None]:
        """Let `abort` stop this player while the block runs."""
        self._players[player] = None
        try:
            yield
        finally:
            del self._players[player]

    def abort(self) -> None:
        """End all running answers with the finish reason `abort`."""
        for player in self._players:
            player.stop("abort")

    def count_answer(self, answer: SimulatedAnswer, sent: int) -> None:
        """Count a finished answer."""
        counts = self.counts
        counts.prompt_tokens += answer.prompt_tokens
        counts.tokens += sent
        reason = answer.finish or "none"
        counts.finished[reason] = counts.finished.get(reason, 0) + 1
        counts.first_s += answer.queued_s + self.pace.first_s

    @asynccontextmanager
    async def slot(self, received: Received) -> AsyncIterator[None]:
        """Wait for a free slot, and hold it while the block runs.

        Raises:
            Refused: too many requests are waiting.
        """
        if self.queue is not None and self._freed.locked() and self.waiting >= self.queue:
            self.counts.refused += 1
            raise Refused("overloaded")
        self.waiting += 1
        try:
            await self._freed.acquire()
        finally:
            self.waiting -= 1
        place = self.slots.index(None)
        self.slots[place] = received
        try:
            yield
        except (asyncio.CancelledError, ConnectionError):
            received.end("disconnected")
            self.counts.dropped += 1
            raise
        finally:
            self.slots[place] = None
            self._freed.release()

    async def instance(self, model: Model, script: FaultScript, *, context_length: int | None = None) -> Instance:
        """Return an instance of the model, and load the model if necessary.

        Raises:
            Refused: the script demands a failure, the server sleeps, or the model needs too much memory.
        """
        if self.sleeping:
            raise Refused("sleeping", model=model.name)
        if script.unloaded:
            raise Refused("not_loaded", model=model.name)
        if script.out_of_memory:
            raise Refused("load_failed", "CUDA error: out of memory", model=model.name)
        return await self.models.load(model, context_length)

    def answer(self, index: int, ask: Ask, model: str, context_length: int, script: FaultScript) -> SimulatedAnswer:
        """Return the model's answer to a request.

        Args:
            index: the number of the request.
            model: the name of the model in the answer.
            context_length: how many tokens prompt and answer may have together.

        Raises:
            Refused: the prompt does not fit in the context.
        """
        prompt_tokens = ask.prompt_tokens
        while ask.truncate and prompt_tokens >= context_length and (shorter := _shorter(ask.turns)):
            ask = replace(ask, turns=shorter)
            prompt_tokens = ask.prompt_tokens
        if prompt_tokens >= context_length:
            raise Refused("too_long", model=model, tokens=prompt_tokens, limit=context_length)
        parts, finish, stopped_by = simulate_answer(ask, script, self.tokens, self.seed, context_length - prompt_tokens)
        named = script.answers_as or model
        return SimulatedAnswer(
            index, ask, named, script, parts, _finish(script, finish), stopped_by, prompt_tokens, int(time.time())
        )


def _shorter(turns: tuple[ConversationTurn, ...]) -> tuple[ConversationTurn, ...]:
    """Return the turns without the oldest one that is not a system message; empty if it is the only such turn."""
    places = [place for place, turn in enumerate(turns) if turn.role != "system"]
    return turns[: places[0]] + turns[places[0] + 1 :] if len(places) > 1 else ()


def _finish(script: FaultScript, finish: str) -> str | None:
    if script.no_end:
        return None
    return finish if script.finish_reason == "stop" else script.finish_reason
