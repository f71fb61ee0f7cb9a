"""Writes an answer as the events of a Messages stream: a message with blocks, which begin, grow and end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic_core import from_json, to_json

from tokenlane.producer.gateway.anthropic_errors import error_body
from tokenlane.producer.gateway.failures import Failure
from tokenlane.producer.gateway.question import Begun
from tokenlane.routing.contract.answers import Answer, TokenDelta, ToolCallDelta, Usage

from .whole import SIGNATURE, message_id, stop_reason, tool_use_id, usage_of

_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_ALIVE = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":null,"stop_sequence":null},'
    b'"usage":{"output_tokens":0}}\n\n'
)
_ALIVE_EVERY = 15
"""After so many pings, two minutes, comes a message_delta that changes nothing: Claude Code gives up a stream in which
for five minutes no event but pings comes."""
_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
_END = b"}}\n\n"
_FIELDS = {
    "text": (b"text_delta", b"text"),
    "thinking": (b"thinking_delta", b"thinking"),
    "signature": (b"signature_delta", b"signature"),
    "tool_use": (b"input_json_delta", b"partial_json"),
}


@dataclass(eq=False)
class _Call:
    """A tool call of the answer. Its block begins once its name is known.

    Args:
        number: the call's index in the answer.
        block: the number of its block; None until the block has begun.
        head: the bytes of its events before a piece of the arguments.
    """

    number: int
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list, repr=False)
    block: int | None = None
    head: bytes = b""
    has_ended: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether the arguments so far are complete JSON."""
        try:
            from_json("".join(self.arguments))
        except ValueError:
            return False
        return True


class EventWriter:
    """An `AnswerWriter`.

    The block of a tool call ends when another block begins and its arguments are complete. Servers may send the pieces
    of several calls in turn: such blocks end with the answer.
    """

    def __init__(self, begun: Begun) -> None:
        self._begun = begun
        self._has_begun = False
        self._pings = 0
        self._blocks = 0
        self._kind = ""
        """Whether the last block is of text or thinking, and open; empty if not."""
        self._head = b""
        """The bytes of that block's events before a piece of its text."""
        self._calls: dict[int, _Call] = {}

    def begin(self) -> bytes:
        """The message without content. Its usage is known at the end, and clients may add the two up."""
        self._has_begun = True
        message: dict[str, object] = {
            "id": message_id(self._begun),
            "type": "message",
            "role": "assistant",
            "model": self._begun.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_of(Usage()),
        }
        return _event("message_start", {"message": message})

    def ping(self, waiting: str) -> bytes:
        """A ping, with a comment that says why the request waits."""
        ping = b": %b\n%b" % (waiting.encode(), _PING) if waiting else _PING
        self._pings += 1
        return ping + _ALIVE if self._has_begun and self._pings % _ALIVE_EVERY == 0 else ping

    def deltas(self, deltas: Sequence[TokenDelta]) -> bytes:
        """The events for the next deltas."""
        return b"".join(map(self._delta, deltas))

    def end(self, answer: Answer) -> bytes:
        """The ends of all blocks, and of the message."""
        events = [self._begin_call(call) for call in self._calls.values() if call.block is None]
        events.append(self._end_text())
        events += [_block_stop(call.block) for call in self._calls.values() if not call.has_ended]
        delta = {"stop_reason": stop_reason(answer), "stop_sequence": None}
        events.append(_event("message_delta", {"delta": delta, "usage": usage_of(answer.usage)}))
        return b"".join(events) + _event("message_stop", {})

    def fail(self, failure: Failure) -> bytes:
        """An error, after which nothing follows."""
        return b"event: error\ndata: %b\n\n" % to_json(error_body(failure))

    def _delta(self, delta: TokenDelta) -> bytes:
        events = self._text("thinking", delta.reasoning) if delta.reasoning else b""
        if delta.text:
            events += self._text("text", delta.text)
        for piece in delta.tool_calls:
            events += self._call(piece)
        return events

    def _text(self, kind: str, text: str) -> bytes:
        begin = b""
        if self._kind != kind:
            begin = self._end_others() + self._begin_block({"type": kind, kind: ""})
            self._kind, self._head = kind, self._head_of(kind)
        return begin + self._head + to_json(text) + _END

    def _call(self, piece: ToolCallDelta) -> bytes:
        call = self._calls.setdefault(piece.index, _Call(piece.index))
        call.id, call.name = call.id or piece.id or "", call.name or piece.name or ""
        call.arguments.append(piece.arguments)
        if call.block is None:
            return self._begin_call(call) if call.name else b""
        return call.head + to_json(piece.arguments) + _END if piece.arguments else b""

    def _begin_call(self, call: _Call) -> bytes:
        """The beginning of a call's block, with its arguments so far."""
        id = tool_use_id(self._begun, call.number, call.id)
        events = self._end_others() + self._begin_block({"type": "tool_use", "id": id, "name": call.name, "input": {}})
        call.block, call.head = self._blocks - 1, self._head_of("tool_use")
        if arguments := "".join(call.arguments):
            events += call.head + to_json(arguments) + _END
        return events

    def _begin_block(self, block: dict[str, object]) -> bytes:
        self._blocks += 1
        if block["type"] == "thinking":
            block["signature"] = ""
        return _event("content_block_start", {"index": self._blocks - 1, "content_block": block})

    def _head_of(self, kind: str) -> bytes:
        return _DELTA % (self._blocks - 1, *_FIELDS[kind])

    def _end_others(self) -> bytes:
        """The ends of all blocks that are complete, since another one begins."""
        events = self._end_text()
        for call in self._calls.values():
            if call.block is not None and not call.has_ended and call.is_complete:
                call.has_ended = True
                events += _block_stop(call.block)
        return events

    def _end_text(self) -> bytes:
        """The end of the open block of text or thinking, which is the last block."""
        kind, self._kind = self._kind, ""
        if not kind:
            return b""
        signature = self._head_of("signature") + to_json(SIGNATURE) + _END if kind == "thinking" else b""
        return signature + _block_stop(self._blocks - 1)


def _block_stop(block: int | None) -> bytes:
    return _event("content_block_stop", {"index": block})


def _event(name: str, data: dict[str, object]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), to_json({"type": name, **data}))
