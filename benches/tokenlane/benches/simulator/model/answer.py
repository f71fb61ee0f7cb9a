"""Chat requests, independent of a dialect, and the simulated answers to them, token by token."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple

from pydantic import JsonValue

from tokenlane.benches.simulator.fault_script import FaultScript

from .text import continuation, count_tokens, example, pieces_of, words

BEGIN = "<|assistant|>\n"
"""The text that ends a rendered prompt. The answer follows it."""
_THOUGHTS = 4
"""The number of reasoning tokens before an answer."""

Finish = Literal["stop", "length", "tool_calls", "abort"]


class ConversationTurn(NamedTuple):
    """A message of the conversation."""

    role: str
    content: str
    images: int = 0


class Tool(NamedTuple):
    """A tool that the model may call."""

    name: str
    parameters: JsonValue


@dataclass(frozen=True)
class Ask:
    """A chat request.

    Args:
        turns: the messages, without a last assistant message that the model continues.
        prefill: the beginning of the answer, which the model continues.
        tools: the tools that the model may call.
        tool: the tool that the model must call; None: any tool.
        must_call: whether the model must call a tool.
        schema: the JSON schema of the answer.
        formatted: whether the answer must be JSON.
        think: whether the model reasons first; None: the model's default.
        stream: whether the answer is streamed.
        usage: whether the stream ends with the numbers of tokens.
        echo: whether the answer repeats `prefill`.
        keep_alive: how long the model stays loaded, as Ollama's API writes it.
        context_length: the context length with which to load the model; None: the model's default.
        keeps_stop: whether the answer includes the stop string that ended it.
        rendered: the prompt, if the client rendered it; then there are no turns.
        render_only: whether to return the rendered prompt instead of an answer.
        truncate: whether to drop the oldest turns of a prompt that is too long.
        repeated: fields of the request that the answer repeats.
    """

    model: str
    turns: tuple[ConversationTurn, ...] = ()
    prefill: str = ""
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    tools: tuple[Tool, ...] = ()
    tool: str | None = None
    must_call: bool = False
    schema: JsonValue = None
    formatted: bool = False
    think: bool | None = None
    stream: bool = True
    usage: bool = True
    echo: bool = False
    keep_alive: JsonValue = None
    context_length: int | None = None
    truncate: bool = False
    keeps_stop: bool = False
    rendered: str | None = None
    render_only: bool = False
    repeated: Mapping[str, JsonValue] = field(default_factory=dict)

    @property
    def conversation(self) -> str:
        """The turns as one text, as the simulated chat template renders them."""
        if self.rendered is not None:
            return self.rendered
        return "".join(f"<|{turn.role}|>\n{turn.content}\n" for turn in self.turns)

    @property
    def prompt(self) -> str:
        """The text that the model continues: the conversation and the beginning of the answer."""
        return f"{self.conversation}{BEGIN}{self.prefill}"

    @property
    def prompt_tokens(self) -> int:
        """The number of tokens of the prompt and its images."""
        return count_tokens(self.prompt) + 256 * sum(turn.images for turn in self.turns)


@dataclass(frozen=True)
class Call:
    """A complete tool call. `arguments` is JSON."""

    index: int
    id: str
    name: str
    arguments: str


class Part(NamedTuple):
    """A token of the reasoning or of a tool call's arguments. Tokens of text are plain strings."""

    text: str
    channel: Literal["text", "reasoning", "call"] = "text"
    call: Call | None = None
    first: bool = False
    """Whether this is the first token of its call."""
    last: bool = False


@dataclass
class SimulatedAnswer:
    """The answer to one request."""

    index: int
    ask: Ask
    model: str
    """The name of the model in the answer."""
    script: FaultScript
    parts: list[str | Part]
    finish: str | None
    stopped_by: str | None = None
    """The stop string that ended the answer."""
    prompt_tokens: int = 0
    created: int = 0
    request_id: str = ""
    queued_s: float = 0
    load_s: float = 0

    @property
    def text(self) -> str:
        """The answer's text."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def reasoning(self) -> str:
        """The answer's reasoning."""
        return "".join(part.text for part in self.parts if not isinstance(part, str) and part.channel == "reasoning")

    @property
    def calls(self) -> list[Call]:
        """The answer's tool calls."""
        parts = [part for part in self.parts if not isinstance(part, str)]
        return [part.call for part in parts if part.call is not None and part.last]

    @property
    def tokens(self) -> int:
        """The number of tokens of the answer."""
        return len(self.parts)


def simulate_answer(
    ask: Ask, script: FaultScript, tokens: int, seed: int | None, room: int
) -> tuple[list[str | Part], str, str | None]:
    """Return the parts of the answer, its finish reason, and the stop string that ended it.

    Args:
        tokens: the number of tokens in an ordinary answer.
        seed: the seed of the server. The seed in the request overrides it.
        room: the number of tokens that fit in the context after the prompt.
    """
    if script.pieces is not None:
        scripted = continuation(ask.prefill, script.pieces, len(script.pieces)) if ask.prefill else script.pieces
        return [*scripted], "stop", None
    most = room if ask.max_tokens is None else min(ask.max_tokens, room)
    parts: list[str | Part] = [*_thoughts(ask, seed)]
    finish: Finish = "stop"
    stopped_by = None
    if calls := _calls(ask):
        parts += [part for call in calls for part in _call_parts(call)]
        finish = "tool_calls"
    else:
        length = tokens if script.tokens is None else script.tokens
        pieces, stopped_by = _stopped([*islice(_text_pieces(ask, length, seed), most + 1)], ask)
        parts += pieces
    if len(parts) > most:
        return parts[:most], "length", None
    return parts, finish, stopped_by


def _thoughts(ask: Ask, seed: int | None) -> list[Part]:
    if not ask.think or ask.prefill:
        return []
    thoughts = islice(words(ask.seed if ask.seed is not None else seed, "thoughts" + ask.conversation), _THOUGHTS)
    return [Part(thought, "reasoning") for thought in thoughts]


def _text_pieces(ask: Ask, tokens: int, seed: int | None) -> Iterator[str]:
    if ask.formatted:
        pieces = pieces_of(example(ask.schema))
        return continuation(ask.prefill, pieces, len(pieces))
    return continuation(ask.prefill, words(ask.seed if ask.seed is not None else seed, ask.conversation), tokens)


def _stopped(pieces: list[str], ask: Ask) -> tuple[list[str], str | None]:
    """Cut the pieces at the first stop string, which may span several pieces, and return the stop string."""
    if not ask.stop:
        return pieces, None
    text = "".join(pieces)
    hits = [(text.find(stop), stop) for stop in ask.stop if stop and stop in text]
    if not hits:
        return pieces, None
    end, stop = min(hits)
    if ask.keeps_stop:
        end += len(stop)
    kept: list[str] = []
    for piece in pieces:
        if end <= 0:
            break
        kept.append(piece[:end])
        end -= len(piece)
    return kept, stop


def _calls(ask: Ask) -> list[Call]:
    """Return calls of the tools that the last message names, else of the first tool; none after a tool's result."""
    if not ask.tools or ask.prefill or (ask.turns and ask.turns[-1].role == "tool" and not ask.must_call):
        return []
    if ask.tool is not None:
        chosen = [tool for tool in ask.tools if tool.name == ask.tool]
    else:
        last = ask.turns[-1].content if ask.turns else ""
        chosen = [tool for tool in ask.tools if tool.name in last] or [ask.tools[0]]
    return [_call(index, tool, ask) for index, tool in enumerate(chosen)]


def _call(index: int, tool: Tool, ask: Ask) -> Call:
    name = f"{index}{tool.name}{ask.conversation}".encode("utf-8", "surrogatepass")
    return Call(index, f"call_{hashlib.sha256(name).hexdigest()[:12]}", tool.name, example(tool.parameters))


def _call_parts(call: Call) -> Sequence[Part]:
    pieces = pieces_of(call.arguments)
    last = len(pieces) - 1
    return [Part(piece, "call", call, place == 0, place == last) for place, piece in enumerate(pieces)]
