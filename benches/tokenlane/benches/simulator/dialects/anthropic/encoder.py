"""The encoding of Anthropic's Messages API: named events, which open and close the blocks of a message."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import ClassVar

from pydantic import JsonValue

from tokenlane.benches.simulator.dialects.encoder import Encoder
from tokenlane.benches.simulator.dialects.openai.encoder import event
from tokenlane.benches.simulator.model.answer import Ask, Call, Part, SimulatedAnswer

from .request import read_messages_request

_PING = event({"type": "ping"}, "ping")
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_DELTAS = {
    "text": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}
_SIGNATURE = "c2ltdWxhdGVk"


class MessagesEncoder(Encoder):
    """The encoding of `/v1/messages`. Each answer has an encoder of its own, which numbers the blocks."""

    stream_type: ClassVar[str] = "text/event-stream"
    ping: ClassVar[bytes] = _PING
    malformed: ClassVar[bytes] = b'event: content_block_delta\ndata: {"type": \n\n'
    huge_start: ClassVar[bytes] = b"data: "

    def __init__(self) -> None:
        self._begun = False
        self._index = -1
        self._block: tuple[str, Call | None] | None = None

    def read(self, body: Mapping[str, JsonValue]) -> Ask:
        """Read the fields of a request, and ignore unknown fields."""
        return read_messages_request(body)

    def of(self, answer: SimulatedAnswer) -> MessagesEncoder:
        """Return a new encoder, which has sent nothing."""
        return MessagesEncoder()

    def text_frame(self, answer: SimulatedAnswer) -> None:
        """Return None, since blocks begin and end between pieces."""

    def opening(self, answer: SimulatedAnswer) -> bytes:
        """Return the message without its content."""
        self._begun = True
        usage = {**_usage(answer), "output_tokens": 1}
        message = _message(answer, [], None, None, usage)
        return event({"type": "message_start", "message": message}, "message_start")

    def frame(self, answer: SimulatedAnswer, part: Part) -> bytes:
        """Return a piece; before it the end of the block before and the beginning of the piece's own, if it is new."""
        before = b""
        if self._block != (part.channel, part.call):
            before = self._close() + self._open(part)
        kind, field = _DELTAS[part.channel]
        return before + self._delta({"type": kind, field: part.text})

    def _open(self, part: Part) -> bytes:
        self._index += 1
        self._block = (part.channel, part.call)
        block: JsonValue = {"type": "text", "text": ""}
        if part.call is not None:
            block = {"type": "tool_use", "id": part.call.id, "name": part.call.name, "input": {}}
        elif part.channel == "reasoning":
            block = {"type": "thinking", "thinking": "", "signature": ""}
        start: JsonValue = {"type": "content_block_start", "index": self._index, "content_block": block}
        return event(start, "content_block_start") + (_PING if self._index == 0 else b"")

    def _close(self) -> bytes:
        if self._block is None:
            return b""
        signed = b""
        if self._block[0] == "reasoning":
            signed = self._delta({"type": "signature_delta", "signature": _SIGNATURE})
        self._block = None
        return signed + event({"type": "content_block_stop", "index": self._index}, "content_block_stop")

    def _delta(self, delta: JsonValue) -> bytes:
        return event({"type": "content_block_delta", "index": self._index, "delta": delta}, "content_block_delta")

    def ending(self, answer: SimulatedAnswer) -> Iterator[bytes]:
        """Yield the end of the last block, the stop reason with the usage, and the end of the message."""
        if not self._begun:
            yield self.opening(answer)
        if answer.finish is None:
            return
        yield self._close()
        reason, sequence = _stop(answer)
        last: dict[str, JsonValue] = {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": sequence},
        }
        yield event({**last, "usage": _usage(answer)} if answer.script.usage else last, "message_delta")
        yield event({"type": "message_stop"}, "message_stop")

    def unstreamed_body(self, answer: SimulatedAnswer) -> JsonValue:
        """Return the whole message as one object."""
        content: list[JsonValue] = []
        if answer.reasoning:
            content.append({"type": "thinking", "thinking": answer.reasoning, "signature": _SIGNATURE})
        if answer.text or not answer.calls:
            content.append({"type": "text", "text": answer.text})
        for call in answer.calls:
            given: JsonValue = json.loads(call.arguments)
            content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": given})
        return _message(answer, content, *_stop(answer), _usage(answer))

    def error_bytes(self, status: int, error: JsonValue) -> Iterator[bytes]:
        """Yield an error event."""
        yield event(error_document(status, error), "error")

    def headers(self, answer: SimulatedAnswer) -> dict[str, str]:
        """Return the request's id."""
        return {"request-id": f"req_{answer.index:024x}"}


def error_document(status: int, error: JsonValue) -> JsonValue:
    """Return the body of an error.

    Args:
        error: its message, or the object `error`; None: a message that says nothing.
    """
    message: JsonValue = "simulated" if error is None else error
    told: JsonValue = message if isinstance(message, dict) else {"type": error_type(status), "message": message}
    return {"type": "error", "error": told, "request_id": None}


def error_type(status: int) -> str:
    """Return the type of the errors that Anthropic sends with this status."""
    known = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        504: "timeout_error",
        529: "overloaded_error",
    }
    return known.get(status, "api_error" if status >= 500 else "invalid_request_error")


def _stop(answer: SimulatedAnswer) -> tuple[JsonValue, JsonValue]:
    """Return the stop reason, and the stop sequence that ended the answer."""
    if answer.finish == "stop" and answer.stopped_by is not None:
        return "stop_sequence", answer.stopped_by
    return _STOP_REASONS.get(answer.finish or "", answer.finish), None


def _message(
    answer: SimulatedAnswer, content: list[JsonValue], reason: JsonValue, sequence: JsonValue, usage: JsonValue
) -> JsonValue:
    return {
        "id": f"msg_{answer.index:024x}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": usage,
    }


def _usage(answer: SimulatedAnswer) -> dict[str, JsonValue]:
    return {
        "input_tokens": answer.prompt_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": answer.tokens,
    }
