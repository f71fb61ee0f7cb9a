"""OpenAI's encoder of chats, which most other servers' encoders extend."""

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
    """Return a server-sent event with this JSON."""
    data = b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    return f"event: {name}\n".encode() + data if name else data


class OpenAiEncoder(Encoder):
    """`/v1/chat/completions`: server-sent events, ended by `[DONE]`."""

    stream_type: ClassVar[str] = "text/event-stream"
    ping: ClassVar[bytes] = b": ping\n\n"
    malformed: ClassVar[bytes] = b'data: {"choices": [{"delta": \n\n'
    huge_start: ClassVar[bytes] = b"data: "
    role_in_each: ClassVar[bool] = False
    """Whether every chunk has the role, or the first alone, which has nothing else."""
    reasoning_field: ClassVar[str | None] = "reasoning_content"
    """None: it comes in the text, in `<think>`."""
    done_after_error: ClassVar[bool] = False
    limit_names: ClassVar[Sequence[str]] = ("max_completion_tokens", "max_tokens")
    most_stops: ClassVar[int | None] = None
    fingerprint: ClassVar[str | None] = None

    def read(self, body: Mapping[str, JsonValue]) -> Ask:
        """The request's fields; unknown ones are ignored."""
        turns, prefill = self.prefilled(openai_turns(body.get("messages")), body)
        schema, formatted = self.format_of(body.get("response_format"))
        tool, must_call, may_call = self.choice_of(body)
        options = body.get("stream_options")
        return Ask(
            model=str(body.get("model") or ""),
            turns=turns,
            prefill=prefill,
            max_tokens=self.limit(body),
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
            echo=self.echoes(body, prefill),
        )

    def limit(self, body: Mapping[str, JsonValue]) -> int | None:
        """Return the limit of tokens in the answer."""
        limit = integer(body, *self.limit_names)
        if limit is not None and limit < 1:
            raise Refused("bad_request", f"max_tokens must be at least 1, got {limit}.", parameter="max_tokens")
        return limit

    def prefilled(
        self, turns: tuple[ConversationTurn, ...], body: Mapping[str, JsonValue]
    ) -> tuple[tuple[ConversationTurn, ...], str]:
        """Return the conversation, and the begun answer: here none, a last assistant message is a turn like others."""
        return turns, ""

    def echoes(self, body: Mapping[str, JsonValue], prefill: str) -> bool:
        """Whether the answer repeats the text that it continues."""
        return False

    def format_of(self, wanted: JsonValue) -> tuple[JsonValue, bool]:
        """Return the schema of the answer, and whether it must be JSON."""
        match wanted:
            case None | {"type": "text"}:
                return None, False
            case {"type": "json_object"}:
                return {"type": "object"}, True
            case {"type": "json_schema", "json_schema": {"schema": schema}}:
                return schema, True
        raise Refused("bad_request", "response_format is not supported", parameter="response_format")

    def choice_of(self, body: Mapping[str, JsonValue]) -> tuple[str | None, bool, bool]:
        """Return the tool that must be called, whether any tool must be, and whether any may be."""
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
        """A chunk with the role alone."""
        return b"" if self.role_in_each else self.chunk(answer, {"role": "assistant", "content": ""})

    def frame(self, answer: SimulatedAnswer, part: Part) -> bytes:
        """A chunk with one delta."""
        delta: dict[str, JsonValue] = {"role": "assistant"} if self.role_in_each else {}
        if part.call is not None:
            return self.chunk(answer, {**delta, "tool_calls": [self.call_piece(part)]})
        if part.channel == "reasoning":
            if self.reasoning_field is None:
                return self.chunk(answer, {**delta, "content": self.inline(answer, part)})
            return self.chunk(answer, {**delta, self.reasoning_field: part.text})
        return self.chunk(answer, {**delta, "content": part.text})

    def inline(self, answer: SimulatedAnswer, part: Part) -> str:
        """Return reasoning as text."""
        thoughts = [each for each in answer.parts if not isinstance(each, str)]
        before = "<think>" if part is thoughts[0] else ""
        return before + part.text + ("</think>" if part is thoughts[-1] else "")

    def call_piece(self, part: Part) -> JsonValue:
        """Return a piece of a tool call; the first piece has its name."""
        call = part.call
        assert call is not None
        if part.first:
            function: JsonValue = {"name": call.name, "arguments": part.text}
            return {"index": call.index, "id": call.id, "type": "function", "function": function}
        return {"index": call.index, "function": {"arguments": part.text}}

    def finish(self, answer: SimulatedAnswer) -> str | None:
        """Return the finish reason in the server's words."""
        return answer.finish

    def ending(self, answer: SimulatedAnswer) -> Iterator[bytes]:
        """The finish reason, the usage if requested, and `[DONE]`."""
        script = answer.script
        if not answer.parts:
            yield self.opening(answer)
        if answer.finish is not None:
            delta: JsonValue = {"role": "assistant", "content": ""} if self.role_in_each else {}
            yield self.chunk(answer, delta, self.finish(answer))
        if script.usage and answer.ask.usage and not script.no_end:
            yield event({**self.envelope(answer), "choices": [], "usage": self.usage(answer)})
        if script.done and not script.no_end:
            yield DONE

    def usage(self, answer: SimulatedAnswer) -> JsonValue:
        """The counts."""
        return {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.tokens,
            "total_tokens": answer.prompt_tokens + answer.tokens,
        }

    def chunk(self, answer: SimulatedAnswer, delta: JsonValue, finish: str | None = None) -> bytes:
        """Return a chunk of the stream."""
        choice: dict[str, JsonValue] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event({**self.envelope(answer), "choices": [{**choice, **self.more(answer, finish)}]})

    def more(self, answer: SimulatedAnswer, finish: str | None) -> dict[str, JsonValue]:
        """Return the other fields of a choice."""
        return {}

    def identity(self, answer: SimulatedAnswer) -> str:
        """Return the answer's id."""
        return f"chatcmpl-{answer.request_id or answer.index}"

    def envelope(self, answer: SimulatedAnswer) -> dict[str, JsonValue]:
        """Return the fields of every chunk."""
        known: dict[str, JsonValue] = {
            "id": self.identity(answer),
            "object": "chat.completion.chunk",
            "created": answer.created,
            "model": answer.model,
        }
        return known if self.fingerprint is None else {**known, "system_fingerprint": self.fingerprint}

    def whole(self, answer: SimulatedAnswer) -> JsonValue:
        """The answer as one object."""
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
        reason = self.finish(answer)
        choice: dict[str, JsonValue] = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return {
            **self.envelope(answer),
            "object": "chat.completion",
            "choices": [{**choice, **self.more(answer, reason)}],
            "usage": self.usage(answer),
        }

    def failure(self, status: int, error: JsonValue) -> JsonValue:
        """Return the error of an event."""
        document: JsonValue = {"message": "simulated", "type": "server_error", "param": None, "code": status}
        return {"error": document if error is None else error}

    def failing(self, status: int, error: JsonValue) -> Iterator[bytes]:
        """An event with the error."""
        yield event(self.failure(status, error))
        if self.done_after_error:
            yield DONE
