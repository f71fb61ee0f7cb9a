"""Writes an answer as the events of a Responses stream.

Each event has a `sequence_number` that follows from the answer alone, not from how it was cut into deltas: an event of
text takes as many numbers as it has characters and has that of the last one, each other event takes one number. So any
gateway that has the answer can go on after any number, if need be inside what was one event elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pydantic import JsonValue
from pydantic_core import to_json

from tokenlane.producer.gateway.failures import Failure
from tokenlane.producer.gateway.question import Begun
from tokenlane.routing.contract.answers import Answer, TokenDelta, ToolCallDelta

from .output_items import Item, Kind
from .snapshot import Status, failed_as, snapshot, status_of
from .tools import parted

IN_PROGRESS = 20_000
"""The number of `response.in_progress`, after which the output begins. Events sent while a response waits have the
numbers before it: more than a day's pings."""
_PARTS = {"reasoning": "response.reasoning_text", "message": "response.output_text"}
_SUMMARY = "response.reasoning_summary_text"


class EventWriter:
    """An `AnswerWriter`.

    Args:
        shown: the fields that repeat the request; empty if this gateway does not know them.
        as_summary: whether reasoning is written as a summary.
        after: the number of the last event that the client has; -1 if it has none.
        ended: called with the complete answer.
    """

    def __init__(
        self,
        begun: Begun,
        shown: Mapping[str, JsonValue],
        *,
        as_summary: bool = False,
        after: int = -1,
        ended: Callable[[Answer], None] = lambda _: None,
    ) -> None:
        self._begun = begun
        self._shown = shown
        self._as_summary = as_summary
        self._after = after
        self._ended = ended
        self._number = -1
        self._items: list[Item] = []
        self._open: list[Item] = []
        self._calls: dict[int, Item] = {}
        self._head = b""
        self._has_begun = False

    @property
    def number(self) -> int:
        """The number of the last event."""
        return self._number

    def output(self, status: Status) -> list[dict[str, object]]:
        """The items of the output so far, of a response that stands so."""
        last = {"completed": "completed", "queued": "in_progress", "in_progress": "in_progress"}.get(
            status, "incomplete"
        )
        shown = [
            item.shown("in_progress" if last == "in_progress" and item in self._open else "completed")
            for item in self._items
        ]
        if shown and last == "incomplete":
            shown[-1]["status"] = last
        return shown

    def begin(self) -> bytes:
        self._has_begun = True
        return self._snapshot("response.created", self._waits_as)

    def ping(self, waiting: str) -> bytes:
        comment = b": %b\n" % (waiting or "ping").encode()
        if not self._has_begun or self._number >= IN_PROGRESS - 1:
            return comment
        status: Status = "queued" if waiting else "in_progress"
        return comment + self._snapshot(f"response.{status}", status)

    def deltas(self, deltas: Sequence[TokenDelta]) -> bytes:
        return b"".join(map(self._delta, deltas))

    def end(self, answer: Answer) -> bytes:
        self._ended(answer)
        status = status_of(answer)
        events = self._start() + b"".join(
            self._close(item, status if item is self._items[-1] else "completed") for item in tuple(self._open)
        )
        return events + self._snapshot(f"response.{status}", status, self.output(status), answer=answer)

    def fail(self, failure: Failure) -> bytes:
        events = b"" if self._has_begun else self.begin()
        events += self._start()
        self._number = max(self._number, self._after)  # a client that has more must see the failure too
        status = failed_as(failure)
        return events + self._snapshot("response.failed", status, self.output(status), failure=failure)

    @property
    def _waits_as(self) -> Status:
        return "queued" if self._shown.get("background", True) else "in_progress"

    def _start(self) -> bytes:
        """The event that stands before the output."""
        if self._number >= IN_PROGRESS:
            return b""
        self._number = IN_PROGRESS - 1
        return self._snapshot("response.in_progress", "in_progress")

    def _delta(self, delta: TokenDelta) -> bytes:
        events = b""
        if delta.reasoning:
            events += self._text("reasoning", delta.reasoning)
        if delta.text:
            events += self._text("message", delta.text)
        for call in delta.tool_calls:
            events += self._call(call)
        return events

    def _text(self, kind: Kind, text: str) -> bytes:
        events = b""
        if not self._open or self._open[-1].kind != kind:
            events = self._start() + self._close_texts()
            events += self._add(Item(kind, self._begun.request_id, len(self._items), as_summary=self._as_summary))
        self._open[-1].add(text)
        return events + self._piece(self._head, text)

    def _call(self, call: ToolCallDelta) -> bytes:
        events, item = b"", self._calls.get(call.index)
        if item is None:
            events = self._start() + self._close_texts()
            item = Item("function_call", self._begun.request_id, len(self._items), call.index)
            item.call_id, item.name = call.id or "", call.name or ""
            self._calls[call.index] = item
            events += self._add(item)
        if not call.arguments:
            return events
        item.add(call.arguments)
        head = self._head if item is self._items[-1] else self._piece_head(item)
        return events + self._piece(head, call.arguments)

    def _add(self, item: Item) -> bytes:
        self._items.append(item)
        self._open.append(item)
        self._head = self._piece_head(item)
        place = b'"output_index":%d' % item.place
        shown = to_json(item.shown("in_progress", has_part=False))
        events = self._event("response.output_item.added", b'%b,"item":%b' % (place, shown))
        if item.kind != "function_call":
            part = item.part()
            events += self._event(f"{_part_of(item)}.added", b'%b,"part":%b' % (_where(item), to_json(part)))
        return events

    def _close_texts(self) -> bytes:
        """End the item of text or reasoning that is open. Calls stay open, since their pieces may alternate."""
        return b"".join(self._close(item) for item in tuple(self._open) if item.kind != "function_call")

    def _close(self, item: Item, status: Status = "completed") -> bytes:
        self._open.remove(item)
        text = to_json(item.text)
        if item.kind == "function_call":
            name, arguments = to_json(parted(item.name)["name"]), to_json(item.text or "{}")
            fields = b'"item_id":"%b","output_index":%d,"name":%b,"arguments":%b'
            fields %= (item.id.encode(), item.place, name, arguments)
            events = self._event("response.function_call_arguments.done", fields)
        else:
            done = b'%b,"text":%b' % (_where(item), text)
            if item.kind == "message":
                done += b',"logprobs":[]'
            events = self._event(f"{_text_of(item)}.done", done)
            events += self._event(f"{_part_of(item)}.done", b'%b,"part":%b' % (_where(item), to_json(item.part())))
        shown = to_json(item.shown(status))
        return events + self._event("response.output_item.done", b'"output_index":%d,"item":%b' % (item.place, shown))

    def _piece_head(self, item: Item) -> bytes:
        """The event of a piece of this item's text, up to its number and the piece."""
        if item.kind == "function_call":
            kind, where = "response.function_call_arguments", b'"item_id":"%b","output_index":%d'
            where %= (item.id.encode(), item.place)
        else:
            kind, where = _text_of(item), _where(item)
        logprobs = b',"logprobs":[]' if item.kind == "message" else b""
        name = f"{kind}.delta".encode()
        return b'event: %b\ndata: {"type":"%b",%b%b' % (name, name, where, logprobs)

    def _piece(self, head: bytes, text: str) -> bytes:
        before = self._number
        self._number += len(text)
        if before < self._after:
            if self._number <= self._after:
                return b""
            text = text[self._after - before :]
        return b'%b,"sequence_number":%d,"delta":%b}\n\n' % (head, self._number, to_json(text))

    def _snapshot(
        self,
        kind: str,
        status: Status,
        output: Sequence[Mapping[str, object]] = (),
        *,
        answer: Answer | None = None,
        failure: Failure | None = None,
    ) -> bytes:
        if self._number + 1 <= self._after:
            self._number += 1
            return b""
        response = snapshot(self._begun, self._shown, status, output, answer=answer, failure=failure)
        return self._event(kind, b'"response":%b' % to_json(response))

    def _event(self, kind: str, fields: bytes) -> bytes:
        self._number += 1
        if self._number <= self._after:
            return b""
        name = kind.encode()
        return b'event: %b\ndata: {"type":"%b","sequence_number":%d,%b}\n\n' % (name, name, self._number, fields)


def _text_of(item: Item) -> str:
    return _SUMMARY if item.kind == "reasoning" and item.as_summary else _PARTS[item.kind]


def _part_of(item: Item) -> str:
    """The name of the events that begin and end the item's part."""
    return (
        "response.reasoning_summary_part" if item.kind == "reasoning" and item.as_summary else "response.content_part"
    )


def _where(item: Item) -> bytes:
    index = b"summary_index" if item.kind == "reasoning" and item.as_summary else b"content_index"
    return b'"item_id":"%b","output_index":%d,"%b":0' % (item.id.encode(), item.place, index)
