"""Ollama's encodings: lines of JSON, and an OpenAI-compatible stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import ClassVar

from pydantic import JsonValue

from tokenlane.benches.simulator.dialects.encoder import Encoder
from tokenlane.benches.simulator.dialects.openai.encoder import OpenAiEncoder, event
from tokenlane.benches.simulator.dialects.request_fields import boolean, integer, openai_turns, stops, tools_of
from tokenlane.benches.simulator.model.answer import Ask, ConversationTurn, Part, SimulatedAnswer
from tokenlane.benches.simulator.model.refusals import Refused

_LEVELS = ("low", "medium", "high", "max")


def line(value: JsonValue) -> bytes:
    """Return a line of JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def moment() -> str:
    """Return the current time in Ollama's format."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class ChatEncoder(Encoder):
    """The encoding of `/api/chat`: a line of JSON for each piece. The model continues a last assistant message."""

    stream_type: ClassVar[str] = "application/x-ndjson"
    late_head: ClassVar[bool] = True
    ping: ClassVar[bytes] = b"\n"  # Ollama itself sends none
    malformed: ClassVar[bytes] = b'{"message": {"content": \n'
    huge_start: ClassVar[bytes] = b""

    def read(self, body: Mapping[str, JsonValue]) -> Ask:
        """Read the fields of a request."""
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise Refused("bad_request", "model is required")
        options = body.get("options")
        options = options if isinstance(options, dict) else {}
        limit = integer(options, "num_predict")
        schema, formatted = _format(body.get("format"))
        turns, prefill = self.conversation(body)
        return Ask(
            model=model,
            turns=turns,
            prefill=prefill,
            max_tokens=None if limit is None or limit < 0 else limit,
            stop=stops(options.get("stop")),
            seed=integer(options, "seed"),
            tools=tools_of(body.get("tools")),
            schema=schema,
            formatted=formatted,
            think=_think(body.get("think")),
            stream=boolean(body, "stream", True),
            keep_alive=body.get("keep_alive"),
            context_length=integer(options, "num_ctx"),
            truncate=boolean(body, "truncate", True),
            render_only=boolean(body, "_debug_render_only", False),
        )

    def conversation(self, body: Mapping[str, JsonValue]) -> tuple[tuple[ConversationTurn, ...], str]:
        """Return the conversation without the beginning of the answer, and that beginning."""
        messages = body.get("messages") or []
        turns = openai_turns(messages)
        assert isinstance(messages, list)
        images = [_images(message) for message in messages]
        turns = tuple(turn._replace(images=count) for turn, count in zip(turns, images, strict=True))
        if turns and turns[-1].role == "assistant":
            return turns[:-1], turns[-1].content
        return turns, ""

    def fields(self, text: str, *, thinking: str = "", calls: Sequence[JsonValue] = ()) -> dict[str, JsonValue]:
        """Return the fields of a line that contain text, reasoning and tool calls."""
        message: dict[str, JsonValue] = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = [*calls]
        return {"message": message}

    def load_answer(self, ask: Ask, reason: str) -> JsonValue:
        """Return the answer to a request that loaded or unloaded the model."""
        return {"model": ask.model, "created_at": moment(), **self.fields(""), "done": True, "done_reason": reason}

    def frame(self, answer: SimulatedAnswer, part: Part) -> bytes:
        """Return a line with a piece; empty for a piece of a tool call that is not complete yet."""
        if part.call is not None:
            return self._line(answer, self.fields("", calls=[_called(answer, part.call.index)])) if part.last else b""
        if part.channel == "reasoning":
            return self._line(answer, self.fields("", thinking=part.text))
        return self._line(answer, self.fields(part.text))

    def _line(self, answer: SimulatedAnswer, fields: dict[str, JsonValue]) -> bytes:
        return line({"model": answer.model, "created_at": moment(), **fields, "done": False})

    def ending(self, answer: SimulatedAnswer) -> Iterator[bytes]:
        """Yield the line with `done`, if the answer has a finish reason."""
        if answer.finish is not None:
            yield line(self._last(answer, self.fields("")))

    def _last(self, answer: SimulatedAnswer, fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
        counts: dict[str, JsonValue] = {}
        if answer.script.usage:
            counts = {"prompt_eval_count": answer.prompt_tokens, "eval_count": answer.tokens}
        reason = "stop" if answer.finish == "tool_calls" else answer.finish
        return {
            "model": answer.model,
            "created_at": moment(),
            **fields,
            "done": True,
            "done_reason": reason,
            "total_duration": int((answer.load_s + answer.queued_s) * 1e9) + 1,
            "load_duration": int(answer.load_s * 1e9) + 1,
            **{name: count for name, count in counts.items() if count},
            "prompt_eval_duration": 1,
            "eval_duration": 1,
        }

    def unstreamed_body(self, answer: SimulatedAnswer) -> JsonValue:
        """Return the whole answer as one object."""
        calls = [_called(answer, call.index) for call in answer.calls]
        return self._last(answer, self.fields(answer.text, thinking=answer.reasoning, calls=calls))

    def error_bytes(self, status: int, error: JsonValue) -> Iterator[bytes]:
        """Yield a line with the error."""
        yield line({"error": "simulated" if error is None else error})

    def unloaded(self, answer: SimulatedAnswer) -> Iterator[bytes]:
        """Return no bytes: when Ollama's runner dies, the stream ends without an error."""
        return iter(())


class GenerateEncoder(ChatEncoder):
    """The encoding of `/api/generate`, which has a prompt instead of messages."""

    def conversation(self, body: Mapping[str, JsonValue]) -> tuple[tuple[ConversationTurn, ...], str]:
        """Return the prompt as a single turn."""
        prompt = body.get("prompt")
        return (
            (ConversationTurn("user", prompt, _images(dict(body))),) if isinstance(prompt, str) and prompt else ()
        ), ""

    def fields(self, text: str, *, thinking: str = "", calls: Sequence[JsonValue] = ()) -> dict[str, JsonValue]:
        """Return the fields with text and reasoning, which are at the top level of the line."""
        return {"response": text, "thinking": thinking} if thinking else {"response": text}


class CompatibleEncoder(OpenAiEncoder):
    """The encoding of `/v1/chat/completions`, which loses errors in the middle of a stream."""

    reasoning_field: ClassVar[str | None] = "reasoning"
    limit_names: ClassVar[Sequence[str]] = ("max_tokens",)
    fingerprint: ClassVar[str | None] = "fp_ollama"

    def read(self, body: Mapping[str, JsonValue]) -> Ask:
        """Read the fields of a request, except `tool_choice`, which Ollama ignores."""
        ask = super().read({**body, "tool_choice": None})
        if not ask.turns and not ask.prefill:
            raise Refused("bad_request", "[] is too short - 'messages'")
        return ask

    def split_prefill(
        self, turns: tuple[ConversationTurn, ...], body: Mapping[str, JsonValue]
    ) -> tuple[tuple[ConversationTurn, ...], str]:
        """Return a last assistant message as the beginning of the answer."""
        return (turns[:-1], turns[-1].content) if turns and turns[-1].role == "assistant" else (turns, "")

    def answer_id(self, answer: SimulatedAnswer) -> str:
        """Return the id. As with Ollama itself, ids are not unique."""
        return f"chatcmpl-{answer.index % 999}"

    def error_bytes(self, status: int, error: JsonValue) -> Iterator[bytes]:
        """Yield a chunk without text and without the error, which Ollama loses."""
        chunk: JsonValue = {
            "id": "chatcmpl-0",
            "object": "chat.completion.chunk",
            "created": 1_760_000_000,
            "model": "",
            "system_fingerprint": self.fingerprint,
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
        }
        yield event(chunk)


def _format(wanted: JsonValue) -> tuple[JsonValue, bool]:
    if wanted in (None, ""):
        return None, False
    if wanted == "json":
        return {"type": "object"}, True
    if isinstance(wanted, dict):
        return wanted, True
    raise Refused("bad_request", f'invalid format: {json.dumps(wanted)}; expected "json" or a JSON schema')


def _think(wanted: JsonValue) -> bool | None:
    if wanted is None or isinstance(wanted, bool):
        return wanted
    if wanted in _LEVELS:
        return True
    raise Refused("bad_request", f"invalid think value: {json.dumps(wanted)}")


def _images(message: JsonValue) -> int:
    images = message.get("images") if isinstance(message, dict) else None
    return len(images) if isinstance(images, list) else 0


def _called(answer: SimulatedAnswer, index: int) -> JsonValue:
    """Return a tool call with its arguments as an object."""
    call = answer.calls[index]
    arguments: JsonValue = json.loads(call.arguments)
    return {"id": call.id, "function": {"index": call.index, "name": call.name, "arguments": arguments}}
