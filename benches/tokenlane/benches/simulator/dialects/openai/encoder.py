"""OpenAI's encoding of chats, which the encodings of most other servers extend."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from pydantic import JsonValue

from tokenlane.benches.simulator.dialects.encoder import Encoder
from tokenlane.benches.simulator.dialects.request_fields import (
    boolean,
    integer,
    openai_turns,
    stops,
    tools_of,
)
from tokenlane.benches.simulator.model.answer import Ask, ConversationTurn, Part, SimulatedAnswer
from tokenlane.benches.simulator.model.refusals import Refused

DONE = b"data: [DONE]\n\n"


def event(value: JsonValue, name: str = "") -> bytes:
    """Return a server-sent event with JSON as its data."""
    data = b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    return f"event: {name}\n".encode() + data if name else data


class OpenAiEncoder(Encoder):
    """The encoding of `/v1/chat/completions`: server-sent events, the last of which is `[DONE]`."""

    stream_type: ClassVar[str] = "text/event-stream"
    ping: ClassVar[bytes] = b": ping\n\n"
    malformed: ClassVar[bytes] = b'data: {"choices": [{"delta": \n\n'
    huge_start: ClassVar[bytes] = b"data: "
    role_in_each: ClassVar[bool] = False
    """Whether every chunk states the role. Otherwise only the first chunk states it, and has no text."""
    reasoning_field: ClassVar[str | None] = "reasoning_content"
    """The field with the reasoning; None: the reasoning is part of the text, between `<think>` tags."""
    done_after_error: ClassVar[bool] = False
    """Whether `[DONE]` follows an error in a stream."""
    limit_names: ClassVar[Sequence[str]] = ("max_completion_tokens", "max_tokens")
    most_stops: ClassVar[int | None] = None
    fingerprint: ClassVar[str | None] = None

    def read(self, body: Mapping[str, JsonValue]) -> Ask:
        """Read the fields of a chat request, and ignore unknown fields."""
        turns, prefill = self.split_prefill(openai_turns(body.get("messages")), body)
        schema, formatted = self.read_format(body.get("response_format"))
        tool, must_call, may_call = self.read_tool_choice(body)
        options = body.get("stream_options")
        return Ask(
            model=str(body.get("model") or ""),
            turns=turns,
            prefill=prefill,
            max_tokens=self.token_limit(body),
            stop=stops(body.get("stop"), self.most_stops),
            seed=integer(body, "seed"),
            tools=tools_of(body.get("tools")) if may_call else (),
            tool=tool,
            must_call=must_call,
            schema=schema,
            formatted=formatted,
            think=False if body.get("reasoning_effort") == "none" else None,
            stream=boolean(body, "stream", False),
            usage=isinstance(options, dict) and options.get("include_usage") is True,
            echo=self.echoes_prefill(body, prefill),
        )

    def token_limit(self, body: Mapping[str, JsonValue]) -> int | None:
        """Return the limit of tokens in the answer; None if there is none."""
        limit = integer(body, *self.limit_names)
        if limit is not None and limit < 1:
            raise Refused("bad_request", f"max_tokens must be at least 1, got {limit}.", parameter="max_tokens")
        return limit

    def split_prefill(
        self, turns: tuple[ConversationTurn, ...], body: Mapping[str, JsonValue]
    ) -> tuple[tuple[ConversationTurn, ...], str]:
        """Return the conversation without the beginning of the answer, and that beginning.

        OpenAI's API continues no answer: a last assistant message is a turn like others.
        """
        return turns, ""

    def echoes_prefill(self, body: Mapping[str, JsonValue], prefill: str) -> bool:
        """Whether the answer repeats the beginning that it continues."""
        return False

    def read_format(self, wanted: JsonValue) -> tuple[JsonValue, bool]:
        """Return the JSON schema of the answer, and whether the answer must be JSON."""
        match wanted:
            case None | {"type": "text"}:
                return None, False
            case {"type": "json_object"}:
                return {"type": "object"}, True
            case {"type": "json_schema", "json_schema": {"schema": schema}}:
                return schema, True
        raise Refused("bad_request", "response_format is not supported", parameter="response_format")

    def read_tool_choice(self, body: Mapping[str, JsonValue]) -> tuple[str | None, bool, bool]:
        """Return the tool that the model must call, whether it must call any tool, and whether it may call tools."""
        match body.get("tool_choice"):
            case None | "auto":
                return None, False, True
            case "none":
                return None, False, False
            case "required":
                return None, True, True
            case {"type": "function", "function": {"name": str(name)}}:
                return name, True, True
        raise Refused("bad_request", "tool_choice is not supported", parameter="tool_choice")

    def opening(self, answer: SimulatedAnswer) -> bytes:
        """Return a chunk with only the role, if the server sends one."""
        return b"" if self.role_in_each else self.chunk(answer, {"role": "assistant", "content": ""})

    def frame(self, answer: SimulatedAnswer, part: Part) -> bytes:
        """Return a chunk with one delta."""
        delta: dict[str, JsonValue] = {"role": "assistant"} if self.role_in_each else {}
        if part.call is not None:
            return self.chunk(answer, {**delta, "tool_calls": [self.call_piece(part)]})
        if part.channel == "reasoning":
            if self.reasoning_field is None:
                return self.chunk(answer, {**delta, "content": self.inline(answer, part)})
            return self.chunk(answer, {**delta, self.reasoning_field: part.text})
        return self.chunk(answer, {**delta, "content": part.text})

    def inline(self, answer: SimulatedAnswer, part: Part) -> str:
        """Return a piece of reasoning as text, with a `<think>` tag if it is the first or the last."""
        thoughts = [each for each in answer.parts if not isinstance(each, str)]
        before = "<think>" if part is thoughts[0] else ""
        return before + part.text + ("</think>" if part is thoughts[-1] else "")

    def call_piece(self, part: Part) -> JsonValue:
        """Return a piece of a tool call. The first piece has the id and the name."""
        call = part.call
        assert call is not None
        if part.first:
            function: JsonValue = {"name": call.name, "arguments": part.text}
            return {"index": call.index, "id": call.id, "type": "function", "function": function}
        return {"index": call.index, "function": {"arguments": part.text}}

    def finish_reason(self, answer: SimulatedAnswer) -> str | None:
        """Return the finish reason as the server words it."""
        return answer.finish

    def ending(self, answer: SimulatedAnswer) -> Iterator[bytes]:
        """Yield the finish reason, the usage if requested, and `[DONE]`."""
        script = answer.script
        if not answer.parts:
            yield self.opening(answer)
        if answer.finish is not None:
            delta: JsonValue = {"role": "assistant", "content": ""} if self.role_in_each else {}
            yield self.chunk(answer, delta, self.finish_reason(answer))
        if script.usage and answer.ask.usage and not script.no_end:
            yield event({**self.envelope(answer), "choices": [], "usage": self.usage(answer)})
        if script.done and not script.no_end:
            yield DONE

    def usage(self, answer: SimulatedAnswer) -> JsonValue:
        """Return the numbers of tokens of prompt and answer."""
        return {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.tokens,
            "total_tokens": answer.prompt_tokens + answer.tokens,
        }

    def chunk(self, answer: SimulatedAnswer, delta: JsonValue, finish: str | None = None) -> bytes:
        """Return a chunk of the stream."""
        choice: dict[str, JsonValue] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event({**self.envelope(answer), "choices": [{**choice, **self.choice_fields(answer, finish)}]})

    def choice_fields(self, answer: SimulatedAnswer, finish: str | None) -> dict[str, JsonValue]:
        """Return additional fields of a choice."""
        return {}

    def answer_id(self, answer: SimulatedAnswer) -> str:
        """Return the answer's id."""
        return f"chatcmpl-{answer.request_id or answer.index}"

    def envelope(self, answer: SimulatedAnswer) -> dict[str, JsonValue]:
        """Return the fields that every chunk has."""
        known: dict[str, JsonValue] = {
            "id": self.answer_id(answer),
            "object": "chat.completion.chunk",
            "created": answer.created,
            "model": answer.model,
        }
        return known if self.fingerprint is None else {**known, "system_fingerprint": self.fingerprint}

    def unstreamed_body(self, answer: SimulatedAnswer) -> JsonValue:
        """Return the whole answer as one object."""
        text = (answer.ask.prefill if answer.ask.echo else "") + answer.text
        message: dict[str, JsonValue] = {"role": "assistant", "content": text or None if answer.calls else text}
        if thoughts := answer.reasoning:
            if self.reasoning_field is None:
                message["content"] = f"<think>{thoughts}</think>{text}"
            else:
                message[self.reasoning_field] = thoughts
        if answer.calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in answer.calls
            ]
        reason = self.finish_reason(answer)
        choice: dict[str, JsonValue] = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return {
            **self.envelope(answer),
            "object": "chat.completion",
            "choices": [{**choice, **self.choice_fields(answer, reason)}],
            "usage": self.usage(answer),
        }

    def error_document(self, status: int, error: JsonValue) -> JsonValue:
        """Return the data of an error event."""
        document: JsonValue = {"message": "simulated", "type": "server_error", "param": None, "code": status}
        return {"error": document if error is None else error}

    def error_bytes(self, status: int, error: JsonValue) -> Iterator[bytes]:
        """Yield an error event."""
        yield event(self.error_document(status, error))
        if self.done_after_error:
            yield DONE
