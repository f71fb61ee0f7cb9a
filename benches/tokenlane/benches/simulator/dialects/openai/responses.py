"""The encoding of OpenAI's Responses API: numbered events, which open and close items and their parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import JsonValue

from tokenlane.benches.simulator.dialects.encoder import Encoder
from tokenlane.benches.simulator.model.answer import Ask, Call, Part, SimulatedAnswer

from .encoder import event
from .responses_request import read_response_request


@dataclass(frozen=True)
class _Form:
    """How the pieces of one kind of item are written."""

    item: str
    """The type of the item."""
    prefix: str
    """The beginning of the item's id."""
    pieces: str
    """The events that carry pieces, without `.delta` and `.done`."""
    value: str
    """The field with the whole value in the last of them."""
    part: str = ""
    """The events around a part, without `.added` and `.done`; empty for items without parts."""
    part_type: str = ""
    part_list: str = ""
    """The field of the item that lists its parts."""
    index: str = ""
    """The field that has the part's place in this list."""


_TEXT = _Form("message", "msg", "output_text", "text", "content_part", "output_text", "content", "content_index")
_REASONING = _Form(
    "reasoning", "rs", "reasoning_text", "text", "content_part", "reasoning_text", "content", "content_index"
)
_SUMMARY = _Form(
    "reasoning",
    "rs",
    "reasoning_summary_text",
    "text",
    "reasoning_summary_part",
    "summary_text",
    "summary",
    "summary_index",
)
_CALL = _Form("function_call", "fc", "function_call_arguments", "arguments")


@dataclass
class _Item:
    """An item of the answer that is being sent."""

    form: _Form
    id: str
    index: int
    call: Call | None
    pieces: list[str] = field(default_factory=list)

    def fields(self, status: str) -> dict[str, JsonValue]:
        """Return the item as far as it was sent; without its value while it is in progress."""
        started = status == "in_progress"
        known: dict[str, JsonValue] = {"id": self.id, "type": self.form.item, "status": status}
        value = "" if started else "".join(self.pieces)
        if self.call is not None:
            return {**known, "call_id": self.call.id, "name": self.call.name, "arguments": value}
        parts: JsonValue = [] if started else [self.part(value)]
        if self.form.item == "message":
            return {**known, "role": "assistant", "content": parts}
        return {**known, "summary": [], self.form.part_list: parts}

    def part(self, value: str) -> dict[str, JsonValue]:
        """Return the only part of the item."""
        return {"type": self.form.part_type, **_marks(self.form), "text": value}

    def place(self) -> dict[str, JsonValue]:
        """Return the fields that say in which item, and which part of it, an event is."""
        at: dict[str, JsonValue] = {"item_id": self.id, "output_index": self.index}
        return {**at, self.form.index: 0} if self.form.index else at


class ResponsesEncoder(Encoder):
    """The encoding of `/v1/responses`. Each answer has an encoder of its own, which numbers the events."""

    stream_type: ClassVar[str] = "text/event-stream"
    ping: ClassVar[bytes] = b": ping\n\n"
    malformed: ClassVar[bytes] = b'event: response.output_text.delta\ndata: {"type": \n\n'
    huge_start: ClassVar[bytes] = b"data: "

    def __init__(self) -> None:
        self._sent = 0
        self._item: _Item | None = None
        self._output: list[JsonValue] = []
        self._answer: SimulatedAnswer | None = None

    def read(self, body: Mapping[str, JsonValue]) -> Ask:
        """Read the fields of a request, and ignore unknown fields."""
        return read_response_request(body)

    def of(self, answer: SimulatedAnswer) -> ResponsesEncoder:
        """Return a new encoder, which has sent nothing."""
        own = ResponsesEncoder()
        own._answer = answer
        return own

    def text_frame(self, answer: SimulatedAnswer) -> None:
        """Return None, since every event has its number."""

    def opening(self, answer: SimulatedAnswer) -> bytes:
        """Return the two events that begin every answer."""
        begun = self._response(answer, "in_progress")
        return self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)

    def frame(self, answer: SimulatedAnswer, part: Part) -> bytes:
        """Return a piece; before it the end of the item before and the beginning of the piece's own, if it is new."""
        before = b""
        form = _form(answer, part)
        if self._item is None or (self._item.form, self._item.call) != (form, part.call):
            before = self._close("completed") + self._open(answer, form, part.call)
        assert self._item is not None
        self._item.pieces.append(part.text)
        return before + self._event(
            f"response.{form.pieces}.delta", **self._item.place(), delta=part.text, **_logprobs(form)
        )

    def _open(self, answer: SimulatedAnswer, form: _Form, call: Call | None) -> bytes:
        index = len(self._output)
        self._item = item = _Item(form, f"{form.prefix}_{answer.index:016x}{index:08x}", index, call)
        opened = self._event("response.output_item.added", output_index=index, item=item.fields("in_progress"))
        if form.part:
            opened += self._event(f"response.{form.part}.added", **item.place(), part=item.part(""))
        return opened

    def _close(self, status: str) -> bytes:
        item = self._item
        if item is None:
            return b""
        form, value = item.form, "".join(item.pieces)
        whole: dict[str, JsonValue] = {form.value: value, **_logprobs(form)}
        if item.call is not None:
            whole["name"] = item.call.name
        closed = self._event(f"response.{form.pieces}.done", **item.place(), **whole)
        if form.part:
            closed += self._event(f"response.{form.part}.done", **item.place(), part=item.part(value))
        closed += self._event("response.output_item.done", output_index=item.index, item=item.fields(status))
        self._output.append(item.fields(status))
        self._item = None
        return closed

    def ending(self, answer: SimulatedAnswer) -> Iterator[bytes]:
        """Yield the end of the last item, and the whole answer."""
        if not self._sent:
            yield self.opening(answer)
        if answer.finish is None:
            return
        status = _status(answer)
        yield self._close(status)
        yield self._event(f"response.{status}", response=self._response(answer, status))

    def unstreamed_body(self, answer: SimulatedAnswer) -> JsonValue:
        """Return the answer that a stream ends with."""
        whole = self.of(answer)
        for part in answer.parts:
            whole.piece(answer, part)
        status = _status(answer)
        whole._close(status)
        return whole._response(answer, status)

    def error_bytes(self, status: int, error: JsonValue) -> Iterator[bytes]:
        """Yield an error event, and the answer as failed."""
        told = error if isinstance(error, dict) else {"message": "simulated" if error is None else error}
        failure: dict[str, JsonValue] = {"code": "server_error", "message": "simulated", **told}
        yield self._event("error", **{"param": None, **failure})
        if self._answer is not None:
            failed = {**self._response(self._answer, "failed"), "error": failure}
            yield self._event("response.failed", response=failed)

    def _event(self, kind: str, **fields: JsonValue) -> bytes:
        data = event({"type": kind, "sequence_number": self._sent, **fields}, kind)
        self._sent += 1
        return data

    def _response(self, answer: SimulatedAnswer, status: str) -> dict[str, JsonValue]:
        ended = status in ("completed", "incomplete")
        counted = ended and answer.script.usage
        return {
            "id": f"resp_{answer.index:032x}",
            "object": "response",
            "created_at": answer.created,
            "status": status,
            "background": False,
            "completed_at": answer.created if status == "completed" else None,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": answer.model,
            "output": [*self._output],
            **answer.ask.repeated,
            "usage": _usage(answer) if counted else None,
        }


def _form(answer: SimulatedAnswer, part: Part) -> _Form:
    if part.call is not None:
        return _CALL
    if part.channel == "text":
        return _TEXT
    reasoning = answer.ask.repeated.get("reasoning")
    return _SUMMARY if isinstance(reasoning, dict) and reasoning.get("summary") else _REASONING


def _marks(form: _Form) -> dict[str, JsonValue]:
    return {"annotations": [], "logprobs": []} if form is _TEXT else {}


def _logprobs(form: _Form) -> dict[str, JsonValue]:
    return {"logprobs": []} if form is _TEXT else {}


def _status(answer: SimulatedAnswer) -> str:
    return "incomplete" if answer.finish == "length" else "completed"


def _usage(answer: SimulatedAnswer) -> JsonValue:
    reasoned = sum(not isinstance(part, str) and part.channel == "reasoning" for part in answer.parts)
    return {
        "input_tokens": answer.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": answer.tokens,
        "output_tokens_details": {"reasoning_tokens": reasoned},
        "total_tokens": answer.prompt_tokens + answer.tokens,
    }
