"""A response in the background, as a gateway holds it in memory: its answer so far, for any number of readers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import JsonValue

from tokenlane.producer.gateway.failures import Failure
from tokenlane.producer.gateway.http.resume import size_of, split
from tokenlane.producer.gateway.question import Begun
from tokenlane.producer.stream import ChatStream
from tokenlane.routing.contract.answers import Answer, TokenDelta
from tokenlane.routing.contract.errors import Interrupted

from .snapshot import Status, failed_as, snapshot, status_of
from .writer import EventWriter

_DELTA_BYTES = 1000
"""About how much memory a delta takes, besides its text."""


class Kept:
    """A response in the background.

    Attributes:
        deltas: the answer so far.
        answer: the complete answer; None until it is complete.
        failure: why the response failed; None if it did not.

    Args:
        agent: whose response it is; empty until it is known.
        shown: the fields that repeat the request; empty if another gateway was asked.
    """

    def __init__(
        self,
        stream: ChatStream,
        begun: Begun,
        agent: str,
        shown: Mapping[str, JsonValue] | None = None,
        *,
        as_summary: bool = False,
    ) -> None:
        self.stream = stream
        self.agent = agent
        self.deltas: list[TokenDelta] = []
        self.answer: Answer | None = None
        self.failure: Failure | None = None
        self.begun = begun
        self._shown = shown or {}
        self._as_summary = as_summary
        self._changed = asyncio.Event()

    @property
    def request_id(self) -> str:
        return self.begun.request_id

    def accepted(self) -> None:
        """Note that the pool has accepted the request, maybe as an earlier one with the same idempotency key."""
        self.begun = replace(self.begun, request_id=self.stream.request_id)

    @property
    def has_ended(self) -> bool:
        return self.answer is not None or self.failure is not None

    @property
    def waiting(self) -> str:
        """Why the response waits, on one line; empty if it does not."""
        return "" if self.has_ended else " ".join((self.stream.waiting or "").split())

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return sum(_size_of(delta) for delta in self.deltas)

    def add(self, deltas: Sequence[TokenDelta]) -> None:
        """Append the next deltas."""
        self.deltas += deltas
        self._tell()

    def end(self, ended: Answer | Failure) -> None:
        """End the response."""
        if isinstance(ended, Failure):
            self.failure = ended
        else:
            self.answer = ended
        self._tell()

    async def next(self, place: int) -> Sequence[TokenDelta]:
        """Wait for the deltas from this place on; empty after the last one."""
        while len(self.deltas) <= place and not self.has_ended:
            await self._changed.wait()
        return self.deltas[place:]

    async def ends(self) -> None:
        """Wait for the end."""
        while not self.has_ended:
            await self._changed.wait()

    def writer(self, after: int = -1) -> EventWriter:
        """A writer of its events after a number."""
        return EventWriter(self.begun, self._shown, as_summary=self._as_summary, after=after)

    def snapshot(self) -> dict[str, object]:
        """The response as it stands."""
        writer = self.writer()
        writer.deltas(self.deltas)
        status: Status = "queued" if self.waiting and not self.deltas else "in_progress"
        if self.answer is not None:
            status = status_of(self.answer)
        elif self.failure is not None:
            status = failed_as(self.failure)
        output = writer.output(status)
        return snapshot(self.begun, self._shown, status, output, answer=self.answer, failure=self.failure)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _size_of(delta: TokenDelta) -> int:
    calls = sum(len(call.arguments) for call in delta.tool_calls)
    return _DELTA_BYTES + 4 * (len(delta.text) + len(delta.reasoning) + calls)


class Rest:
    """What an answer that is read again from its start has beyond the deltas that are known.

    Args:
        known: the deltas that were read before; none for an answer that is read for the first time.
    """

    def __init__(self, known: Sequence[TokenDelta]) -> None:
        self._known = tuple(known)
        self._lacks = size_of(known)
        self._again: list[TokenDelta] = []

    def of(self, deltas: Sequence[TokenDelta]) -> Sequence[TokenDelta]:
        """The new ones of the next deltas.

        Raises:
            Interrupted: the known part of the answer is another one now.
        """
        if self._lacks == 0:
            return deltas
        before, new = split(deltas, self._lacks)
        self._again += before
        self._lacks -= size_of(before)
        if self._lacks == 0 and _content(self._again) != _content(self._known):
            raise Interrupted(
                "The answer broke off, and another lane went on with another text: send the request again."
            )
        return new

    def check_end(self) -> None:
        """Check that the answer that has ended is not shorter than what is known.

        Raises:
            Interrupted: it is.
        """
        if self._lacks:
            raise Interrupted("The answer broke off, and another lane ended it earlier: send the request again.")


def _content(deltas: Sequence[TokenDelta]) -> tuple[str, str, dict[int, str]]:
    calls: dict[int, str] = {}
    for delta in deltas:
        for call in delta.tool_calls:
            calls[call.index] = calls.get(call.index, "") + (call.name or "") + call.arguments
    return "".join(delta.reasoning for delta in deltas), "".join(delta.text for delta in deltas), calls
