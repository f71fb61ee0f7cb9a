"""Answers in Messages: Anthropic's SDK puts a stream together to what it would have been given as a whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message
from hypothesis import given
from hypothesis import strategies as st
from tests.gateways import events_of

from tokenlane.producer.gateway.failures import Failure
from tokenlane.producer.gateway.messages.dialect import Messages
from tokenlane.producer.gateway.messages.writer import EventWriter
from tokenlane.producer.gateway.question import Begun, Question
from tokenlane.routing.contract.answers import Answer, FinishReason, TokenDelta, ToolCall, ToolCallDelta, Usage
from tokenlane.routing.contract.errors import UnreadableAnswer

BEGUN = Begun("0" * 32, "claude-x", 1_700_000_000)
QUESTION = Question("claude-x", [])
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
ARGUMENTS = st.dictionaries(TEXTS, st.one_of(TEXTS, st.integers(-9, 9), st.booleans()), max_size=3).map(json.dumps)
USAGE = Usage(prompt_tokens=7, completion_tokens=4, cached_tokens=2)


def written(deltas: Sequence[TokenDelta], answer: Answer) -> list[Any]:
    """The events of an answer, with a ping after each delta."""
    writer = EventWriter(BEGUN)
    stream = writer.begin() + b"".join(writer.deltas([delta]) + writer.ping("") for delta in deltas)
    return events_of(stream + writer.end(answer))


def read(events: Sequence[Any]) -> Message:
    """What Anthropic's SDK makes of the events."""
    message: Any = None
    buffers: dict[int, bytes] = {}
    for event in events:
        if event["type"] != "ping":
            message = accumulate_event(event=event, current_snapshot=message, json_bufs=buffers)
    return Message.model_validate(message.to_dict())


def whole(answer: Answer) -> Message:
    """What Anthropic's SDK makes of a complete answer."""
    return Message.model_validate(json.loads(json.dumps(Messages().whole(QUESTION, BEGUN, answer))))


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[TokenDelta], Answer]:
    """The deltas of an answer, and the answer: reasoning, text, and calls whose pieces may come in turn."""
    deltas = [TokenDelta(reasoning=text) for text in draw(st.lists(TEXTS, max_size=2))]
    deltas += [TokenDelta(text=text) for text in draw(st.lists(TEXTS, max_size=3))]
    calls: list[ToolCall] = []
    pieces: list[ToolCallDelta] = []
    for index in range(draw(st.integers(0, 3))):
        arguments = draw(st.one_of(ARGUMENTS, st.just("")))
        name, id = f"look{index}", draw(st.sampled_from([f"id{index}", f"call_{index}"]))
        calls.append(ToolCall(id=id, name=name, arguments=arguments))
        cut = draw(st.integers(0, len(arguments)))
        pieces.append(ToolCallDelta(index=index, id=id, name=name, arguments=arguments[:cut]))
        pieces.append(ToolCallDelta(index=index, arguments=arguments[cut:]))
    if draw(st.booleans()):  # a server that sends the pieces of its calls in turn
        pieces.sort(key=lambda piece: piece.name is None)
    deltas += [TokenDelta(tool_calls=(piece,)) for piece in pieces]
    answer = Answer(
        request_id=BEGUN.request_id,
        text="".join(delta.text for delta in deltas),
        reasoning="".join(delta.reasoning for delta in deltas),
        tool_calls=tuple(calls),
        finish_reason=draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"])),
        usage=USAGE,
    )
    return deltas, answer


@given(answers())
def test_a_stream_is_the_whole_answer(drawn: tuple[list[TokenDelta], Answer]) -> None:
    deltas, answer = drawn
    events = written(deltas, answer)
    assert read(events) == whole(answer)
    indices = [event["index"] for event in events if event["type"] == "content_block_start"]
    stops = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert indices == sorted(stops) == list(range(len(indices)))


def test_what_the_whole_answer_has() -> None:
    call = ToolCall(id="id0", name="look", arguments='{"at": 1}')
    answer = Answer(
        request_id="r", text="I look.", reasoning="hm", tool_calls=(call,), finish_reason="stop", usage=USAGE
    )
    message = whole(answer)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert (message.id, message.model, message.stop_reason) == (f"msg_{'0' * 32}", "claude-x", "tool_use")
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens, message.usage.output_tokens) == (5, 2, 4)


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), (None, "end_turn")],
)
def test_why_it_ended(finish: FinishReason | None, reason: str) -> None:
    assert whole(Answer(request_id="r", text="a", finish_reason=finish)).stop_reason == reason


def test_calls_in_one_piece_end_when_the_next_begins() -> None:
    """A client may run a tool while the model writes the next call."""
    deltas = [
        TokenDelta(tool_calls=(ToolCallDelta(index=0, name="a", arguments="{}"),)),
        TokenDelta(tool_calls=(ToolCallDelta(index=1, name="b", arguments="{}"),)),
    ]
    kinds = [(event["type"], event.get("index")) for event in written(deltas, Answer(request_id="r"))]
    assert kinds.index(("content_block_stop", 0)) < kinds.index(("content_block_start", 1))


def test_a_late_name() -> None:
    """A block begins with its tool's name, and has the arguments that came before it."""
    deltas = [
        TokenDelta(tool_calls=(ToolCallDelta(index=0, arguments='{"a"'),)),
        TokenDelta(tool_calls=(ToolCallDelta(index=0, id="i", name="f", arguments=": 1}"),)),
    ]
    answer = Answer(request_id="r", tool_calls=(ToolCall(id="i", name="f", arguments='{"a": 1}'),))
    assert read(written(deltas, answer)).content == whole(answer).content


def test_ids_of_calls_are_unique_among_answers() -> None:
    """A server that sends none gives the pool's own, which begin anew with each answer."""
    answer = Answer(request_id="r", tool_calls=(ToolCall(id="call_0", name="f"),))
    other: Any = Messages().whole(QUESTION, Begun("1" * 32, "m", 0), answer)
    assert other["content"][0]["id"] != whole(answer).to_dict()["content"][0]["id"]  # type: ignore[index] # of a dict


def test_arguments_that_are_no_object() -> None:
    """A complete answer has no place for them. If max_tokens cut them off, the beginning is what there is."""
    cut = Answer(
        request_id="r",
        tool_calls=(ToolCall(id="i", name="f", arguments='{"a": "b'),),
        finish_reason="length",
    )
    assert whole(cut).to_dict()["content"][0]["input"] in ({}, {"a": "b"})  # type: ignore[index] # of a dict
    with pytest.raises(UnreadableAnswer):
        whole(cut.model_copy(update={"finish_reason": "tool_calls"}))


def test_pings_come_before_the_message_too() -> None:
    """With a comment that says why the request waits, which is no event."""
    stream = EventWriter(BEGUN).ping("third in the queue")
    assert stream.startswith(b": third in the queue\n")
    assert events_of(stream) == [{"type": "ping"}]


def test_a_long_wait_shows_signs_of_life() -> None:
    """In half an hour of pings every 8 s, there is another event in each span of five minutes."""
    writer = EventWriter(BEGUN)
    events = events_of(writer.begin() + b"".join(writer.ping("") for _ in range(225)))
    others = [number for number, event in enumerate(events) if event["type"] != "ping"]
    assert all(after - before < 300 / 8 for before, after in zip(others, [*others[1:], len(events)], strict=True))
    answer = Answer(request_id="r", text="a", finish_reason="stop", usage=USAGE)
    rest = events_of(writer.deltas([TokenDelta(text="a")]) + writer.end(answer))
    assert read([*events, *rest]) == whole(answer)


def test_a_failure_is_an_event() -> None:
    (event,) = events_of(EventWriter(BEGUN).fail(Failure(503, "provider_down", "away", request_id="1" * 32)))
    assert (event["type"], event["error"]["type"], event["request_id"]) == ("error", "overloaded_error", "1" * 32)
    assert event["error"]["details"]["error_code"] == "provider_down"
