"""Batches: what waiting requests ask of one model, for vectors of one size, goes to the back end in one call.

One call at a time: what comes meanwhile is the next batch, so nothing waits for company. A batch takes texts of all
that wait, in turns, so a large request does not keep small ones waiting. A server that takes fewer texts in one call is
given as many as it takes.
"""

from __future__ import annotations

import asyncio
import sys
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenlane.routing.contract.errors import (
    BadRequest,
    ContextTooLong,
    LlmError,
    ModelNotFound,
    ProviderDown,
    Unauthorized,
)
from tokenlane.worker.providers import Embeds, TooManyTexts

BATCH_TEXTS = 256
BATCH_CHARACTERS = 1024 * 1024
"""In one call, at most, unless a single text is longer."""
_TURN_TEXTS = 32
"""What one request may put into a batch before the others had their turn."""


@dataclass(eq=False)
class _Asked:
    """What one request asks. `begun`: how many of its texts have been put into batches; `vectors`: those that came."""

    model: str
    dimensions: int | None
    texts: Sequence[str] = field(repr=False)
    alone: bool
    vectors: list[bytes] = field(repr=False)
    ended: asyncio.Future[None]
    begun: int = 0

    @property
    def kind(self) -> tuple[str, int | None]:
        """What all of a batch have in common."""
        return self.model, self.dimensions

    @property
    def rest(self) -> int:
        return 0 if self.ended.done() else len(self.texts) - self.begun


@dataclass(frozen=True)
class _Part:
    """Texts of one request in a batch."""

    asked: _Asked
    texts: Sequence[str] = field(repr=False)


class Batches:
    """The calls to one provider. Somebody must `run` it."""

    def __init__(self, provider: Embeds) -> None:
        self._provider = provider
        self._waiting: deque[_Asked] = deque()
        self._work = asyncio.Event()
        self._calling: asyncio.Task[list[list[float]]] | None = None
        self._called_for: Sequence[_Part] = ()
        self._most: dict[str, int] = {}
        """How many texts the server takes in one call, by the models of which it has said so."""

    async def vectors(
        self, model: str, texts: Sequence[str], *, dimensions: int | None = None, alone: bool = False
    ) -> list[bytes]:
        """The vectors of the texts, in their order, as little-endian float32.

        Args:
            dimensions: how many numbers each is to have, if the model can choose.
            alone: in calls of its own, because it may be what made an earlier one fail.

        Raises:
            LlmError: as the provider raises. An error that one request's texts cause is that request's only.

        Cancellation: a call that nobody waits for any more is cancelled.
        """
        if not texts:
            return []
        asked = _Asked(model, dimensions, texts, alone, [], asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        self._work.set()
        try:
            await asked.ended
        finally:
            asked.ended.cancel()
            if self._calling is not None and all(part.asked.ended.done() for part in self._called_for):
                self._calling.cancel()
        return asked.vectors

    async def run(self) -> None:
        """Make the calls, until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            while batch := self._next_batch():
                await self._make(batch)

    def _next_batch(self) -> list[_Part]:
        self._waiting = deque(asked for asked in self._waiting if asked.rest)
        if not self._waiting:
            return []
        first = self._waiting[0]
        together = [asked for asked in self._waiting if asked.kind == first.kind and not asked.alone]
        taken = _in_turns([first] if first.alone else together, self._most.get(first.model, BATCH_TEXTS))
        self._waiting = deque(
            [asked for asked in self._waiting if asked not in taken] + [asked for asked in taken if asked.rest]
        )
        return [_Part(asked, asked.texts[asked.begun - count : asked.begun]) for asked, count in taken.items()]

    async def _make(self, batch: Sequence[_Part]) -> None:
        batch = [part for part in batch if not part.asked.ended.done()]
        if not batch:
            return
        texts = list(dict.fromkeys(text for part in batch for text in part.texts))
        if len(texts) > self._most.get(batch[0].asked.model, len(texts)):
            return await self._make_each(_split(batch))
        try:
            vectors = await self._call(batch, texts)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) and task.cancelling():
                raise
        except Exception as error:
            self._learn(batch[0].asked.model, error, len(texts))
            if halves := _halves(batch, error):
                await self._make_each(halves)
            else:
                _fail(batch, error)
        else:
            _hand_out(batch, vectors)

    async def _make_each(self, batches: Sequence[Sequence[_Part]]) -> None:
        for batch in batches:
            await self._make(batch)

    def _learn(self, model: str, error: Exception, refused: int) -> None:
        # Without a number it may be their length: the next texts may be shorter.
        if isinstance(error, TooManyTexts) and error.most is not None and error.most < refused:
            self._most[model] = error.most

    async def _call(self, batch: Sequence[_Part], texts: Sequence[str]) -> dict[str, bytes]:
        """The vector of each text."""
        self._calling = asyncio.create_task(self._provider.embed(texts, *batch[0].asked.kind))
        self._called_for = batch
        try:
            vectors = await self._calling
        finally:
            self._calling, self._called_for = None, ()
        if len(vectors) != len(texts):
            raise ProviderDown("The back end answered with another number of vectors than texts.", retryable=False)
        return dict(zip(texts, map(_written, vectors), strict=True))


def _in_turns(waiting: Sequence[_Asked], most: int) -> dict[_Asked, int]:
    """How many texts of each go into the next batch, of that many at most; they count as begun."""
    taken: dict[_Asked, int] = {}
    turns = deque(waiting)
    texts = characters = 0
    while turns and texts < most:
        asked = turns.popleft()
        count = 0
        while count < _TURN_TEXTS and asked.rest and texts < most:
            characters += len(asked.texts[asked.begun])
            if texts and characters > BATCH_CHARACTERS:
                return taken
            asked.begun += 1
            taken[asked] = taken.get(asked, 0) + 1
            texts, count = texts + 1, count + 1
        if asked.rest:
            turns.append(asked)
    return taken


def _hand_out(batch: Sequence[_Part], vectors: dict[str, bytes]) -> None:
    for part in batch:
        asked = part.asked
        if not asked.ended.done():
            asked.vectors.extend(vectors[text] for text in part.texts)
            if len(asked.vectors) == len(asked.texts):
                asked.ended.set_result(None)


def _halves(batch: Sequence[_Part], error: Exception) -> Sequence[Sequence[_Part]]:
    """What to try in place of a batch that failed; nothing if that would fail too.

    The texts of one request may be what made it fail; and a server may take fewer texts at once, and say so in words
    that nobody knows. What may pass is not tried again here: requests that are run again come alone.
    """
    if not isinstance(error, LlmError) or error.retryable or isinstance(error, Unauthorized | ModelNotFound):
        return ()
    if len(batch) == 1 and (not isinstance(error, BadRequest) or isinstance(error, ContextTooLong)):
        return ()
    return _split(batch)


def _split(batch: Sequence[_Part]) -> Sequence[Sequence[_Part]]:
    """The batch as two, of several requests or of the texts of one; nothing if it is a single text."""
    if len(batch) > 1:
        half = len(batch) // 2
        return batch[:half], batch[half:]
    (part,) = batch
    half = len(part.texts) // 2
    return ([_Part(part.asked, part.texts[:half])], [_Part(part.asked, part.texts[half:])]) if half else ()


def _fail(batch: Sequence[_Part], error: Exception) -> None:
    for part in batch:
        if not part.asked.ended.done():
            # One for each: who raises it fills in where it happened.
            own = LlmError.from_report(error.report()) if isinstance(error, LlmError) else error
            part.asked.ended.set_exception(own)


def _written(vector: Sequence[float]) -> bytes:
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
