"""Pieces of tool calls are put together as they belong, whatever a server tells of that."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from tokenlane.routing.contract.answers import Answer, ToolCallDelta
from tokenlane.routing.contract.tool_calls import ToolCalls

Piece = tuple[int | None, str | None, str | None, str]

OSLO, BERN = '{"city": "Oslo"}', '{"city": "Bern"}'
TWO = [("a", "weather", OSLO), ("b", "time", BERN)]
NUMBERED = [("call_0", "weather", OSLO), ("call_1", "time", BERN)]

# What sends it: pieces as (number, id, name, arguments), and the calls that they are.
SHAPES: dict[str, tuple[list[Piece], list[tuple[str, str, str]]]] = {
    "OpenAI: by number": (
        [(0, "a", "weather", ""), (0, None, None, '{"city":'), (0, None, None, ' "Oslo"}'), (1, "b", "time", BERN)],
        TWO,
    ),
    "numbers that begin at 1": ([(1, "a", "weather", OSLO), (2, "b", "time", BERN)], TWO),
    "numbers with a gap, interleaved": (
        [
            (0, "a", "weather", '{"city":'),
            (3, "b", "time", '{"city":'),
            (0, "", "", ' "Oslo"}'),
            (3, "", "", ' "Bern"}'),
        ],
        TWO,
    ),
    "Ollama's OpenAI door: whole, all of them 0": ([(0, "a", "weather", OSLO), (0, "b", "time", BERN)], TWO),
    "LMDeploy, old vLLM: in pieces, all of them 0, empty ids": (
        [
            (0, "a", "weather", ""),
            (0, "", None, '{"city":'),
            (0, "", None, ' "Oslo"}'),
            (0, "b", "time", ""),
            (0, "", None, BERN),
        ],
        TWO,
    ),
    "SGLang: all of them 0, the id in each piece": (
        [
            (0, "a", "weather", ""),
            (0, "a", None, '{"city":'),
            (0, "a", None, ' "Oslo"}'),
            (0, "b", "time", ""),
            (0, "b", None, BERN),
        ],
        TWO,
    ),
    "Gemini: whole, without numbers": ([(None, "a", "weather", OSLO), (None, "b", "time", BERN)], TWO),
    "Gemini: in pieces, without numbers": (
        [(None, "a", "weather", '{"city":'), (None, None, None, ' "Oslo"}'), (None, "b", "time", BERN)],
        TWO,
    ),
    "Gemini, older: whole, all of them 0, no ids": ([(0, "", "weather", OSLO), (0, "", "time", BERN)], NUMBERED),
    "no numbers, no ids, one tool twice": (
        [(None, None, "weather", OSLO), (None, None, "weather", BERN)],
        [("call_0", "weather", OSLO), ("call_1", "weather", BERN)],
    ),
    "one tool twice under one id, numbered": (
        [(0, "weather", "weather", OSLO), (1, "weather", "weather", BERN)],
        [("weather", "weather", OSLO), ("weather", "weather", BERN)],
    ),
    "one tool twice under one id, not numbered": (
        [(0, "weather", "weather", OSLO), (0, "weather", "weather", BERN)],
        [("weather", "weather", OSLO), ("weather", "weather", BERN)],
    ),
    "the name in each piece": (
        [(0, "a", "weather", '{"city":'), (0, "a", "weather", ' "Oslo"}'), (0, "a", "weather", "")],
        TWO[:1],
    ),
    "the name in each piece, no ids": (
        [(0, None, "weather", '{"city":'), (0, None, "weather", ' "Oslo"}'), (0, None, "weather", "")],
        NUMBERED[:1],
    ),
    "Qwen: ids that change from piece to piece": (
        [(0, "a", "weather", '{"city":'), (0, "x", None, ' "Oslo"'), (0, "y", "", "}")],
        TWO[:1],
    ),
    "LiteLLM: all of it again at the end": (
        [(0, "a", "weather", '{"city":'), (0, "a", None, ' "Oslo"}'), (0, "a", "weather", OSLO)],
        TWO[:1],
    ),
    "LiteLLM: all of it again as a JSON string": (
        [(0, "a", "weather", OSLO), (0, "a", "weather", json.dumps(OSLO))],
        TWO[:1],
    ),
    "arguments before the name": ([(0, "a", None, '{"city":'), (0, None, "weather", ' "Oslo"}')], TWO[:1]),
    "the id before the name": ([(0, "a", None, ""), (0, None, "weather", ""), (0, None, None, OSLO)], TWO[:1]),
    "the id late": ([(0, None, "weather", '{"city":'), (0, "a", None, ' "Oslo"}')], TWO[:1]),
    "by id alone, interleaved": (
        [
            (None, "a", "weather", '{"city":'),
            (None, "b", "time", '{"city":'),
            (None, "a", None, ' "Oslo"}'),
            (None, "b", None, ' "Bern"}'),
        ],
        TWO,
    ),
    "a number for each piece, the id of its call": (
        [(0, "a", "weather", '{"city":'), (1, "a", None, ' "Oslo"}'), (2, "b", "time", BERN)],
        TWO,
    ),
    "calls without arguments": (
        [(0, "a", "weather", "{}"), (0, "b", "time", "")],
        [("a", "weather", "{}"), ("b", "time", "")],
    ),
    "arguments that are no JSON": (
        [(0, "a", "weather", '{"city"'), (0, None, None, "}}")],
        [("a", "weather", '{"city"}}')],
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_piece_belongs_to_its_call(shape: str) -> None:
    """What came is the calls it is, and what the first reader put in order a second one leaves so."""
    pieces, calls = SHAPES[shape]
    worker, agent = ToolCalls(), ToolCalls()
    for piece in pieces:
        placed = worker.add(*piece)
        if placed is not None:
            agent.add(placed.index, placed.id, placed.name, placed.arguments)
    for found in (worker, agent):
        assert [(call.id, call.name, call.arguments) for call in found.calls()] == calls
        assert len(found) == len(calls)
        assert not found.has_nameless_call


def test_calls_that_come_as_objects() -> None:
    """Each is a call, also if nothing but its arguments tells it from the one before; its id is made up if need be."""
    calls = ToolCalls()
    placed = [calls.add(0, None, "weather", city, complete=True) for city in (OSLO, OSLO, BERN)]
    placed.append(calls.add(0, "mine", "weather", BERN, complete=True))
    assert placed[0] == ToolCallDelta(index=0, id="call_0", name="weather", arguments=OSLO)
    assert [each.index for each in placed if each is not None] == [0, 1, 2, 3]
    assert calls.calls()[3].id == "mine"
    assert calls.add(0, "mine", "weather", BERN, complete=True) is None


def test_a_call_without_a_name_is_seen() -> None:
    """It is counted, so that nobody takes the answer for text."""
    calls = ToolCalls()
    calls.add(0, "a", None, OSLO)
    assert (len(calls), calls.has_nameless_call) == (1, True)


PIECES = st.lists(
    st.tuples(
        st.none() | st.integers(0, 2),
        st.sampled_from([None, "", "a", "b"]),
        st.sampled_from([None, "", "f", "g"]),
        st.sampled_from(["", "{", "}", "{}", '{"a":', "1}", '"', " "]),
        st.booleans(),
    ),
    max_size=12,
)


@given(PIECES)
def test_a_second_reader_agrees_with_the_first(
    pieces: list[tuple[int | None, str | None, str | None, str, bool]],
) -> None:
    """Whatever comes, an agent that applies the rules to what a worker has put in order sees the same calls."""
    worker, agent = ToolCalls(), ToolCalls()
    for number, id, name, arguments, complete in pieces:
        placed = worker.add(number, id, name, arguments, complete=complete)
        if placed is not None:
            assert agent.add(placed.index, placed.id, placed.name, placed.arguments) == placed
    assert agent.calls() == worker.calls()


def test_what_a_server_wants_to_see_again_stays_with_the_call() -> None:
    """Gemini's signature comes with a call or behind it, and is a part of the turn that goes back."""
    worker, agent = ToolCalls(), ToolCalls()
    signed: dict[str, JsonValue] = {"google": {"thought_signature": "x"}}
    for placed in (worker.add(None, "a", "weather", OSLO), worker.add(None, None, None, "", extra=signed)):
        assert placed is not None
        agent.add(placed.index, placed.id, placed.name, placed.arguments, extra=placed.extra_content)
    (call,) = agent.calls()
    assert (call.arguments, call.extra_content) == (OSLO, signed)
    (sent,) = Answer(request_id="0" * 32, tool_calls=agent.calls()).message.tool_calls or []
    assert sent["extra_content"] == signed
