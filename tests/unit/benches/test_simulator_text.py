"""What the simulated model says, and what it makes of schemas, stop strings and prefixes."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.benches.simulator.model.answer import Ask, ConversationTurn, Part, Tool, simulate_answer
from tokenlane.benches.simulator.model.text import continuation, count_tokens, example, split_tokens, token_ids
from tokenlane.benches.simulator.model.vectors import embedding

NODE: JsonValue = {"$ref": "#/$defs/node"}
TREE: dict[str, JsonValue] = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": NODE}},
            "required": ["v", "kids"],
        },
        "endless": {
            "type": "object",
            "properties": {"next": {"$ref": "#/$defs/endless"}},
            "required": ["next"],
        },
    },
    "$ref": "#/$defs/node",
}
"""A part that holds a list of itself, and one that nothing fits."""
CHAIN: JsonValue = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["v", "next"],
}
SEEDS = st.none() | st.integers(0, 1000)
ROOM = 10_000


def said(ask: Ask, tokens: int = 40, seed: int | None = None, script: FaultScript | None = None) -> list[str]:
    """The tokens of an answer that is all text."""
    parts, _, _ = simulate_answer(ask, script or FaultScript(), tokens, seed, ROOM)
    return [part for part in parts if isinstance(part, str)]


@given(seed=SEEDS, question=st.text(max_size=20), cut=st.integers(0, 400), data=st.data())
def test_any_prefix_is_continued(seed: int | None, question: str, cut: int, data: st.DataObject) -> None:
    """However an answer is cut, even in the middle of a token, its rest follows; and so after a second cut."""
    ask = Ask("m", (ConversationTurn("user", question),))
    whole = "".join(said(ask, seed=seed))
    prefix = whole[: min(cut, len(whole))]
    again = Ask("m", ask.turns, prefill=prefix)
    assert prefix + "".join(said(again, seed=seed)) == whole
    more = data.draw(st.integers(0, len(whole) - len(prefix)))
    twice = Ask("m", ask.turns, prefill=whole[: len(prefix) + more])
    assert twice.prefill + "".join(said(twice, seed=seed)) == whole


@given(pieces=st.lists(st.text(min_size=1, max_size=5), max_size=8), cut=st.integers(0, 50))
def test_a_scripted_answer_is_continued(pieces: list[str], cut: int) -> None:
    """So is one whose text a script gives."""
    whole = "".join(pieces)
    script = FaultScript(pieces=tuple(pieces))
    ask = Ask("m", prefill=whole[:cut])
    assert whole[:cut] + "".join(said(ask, script=script)) == whole


def test_seeds() -> None:
    """Without a seed words are counted; the same seed and question give the same text, others another."""
    ask = Ask("m", (ConversationTurn("user", "q"),))
    assert said(ask, 3) == ["w0 ", "w1 ", "w2 "]
    assert said(ask, seed=1) == said(ask, seed=1)
    assert said(ask, seed=1) != said(ask, seed=2)
    assert said(ask, seed=1) != said(Ask("m", (ConversationTurn("user", "other"),)), seed=1)
    assert said(Ask("m", ask.turns, seed=1), seed=2) == said(ask, seed=1)


@given(st.text(max_size=100), st.integers(0, 100), st.integers(0, 30))
def test_after_counts_by_length(prefix: str, cut: int, whole: int) -> None:
    """Pieces that have been said are not said again, whatever the prefix holds."""
    pieces = [f"p{number} " for number in range(30)]
    left = "".join(continuation(prefix[:cut], pieces, whole))
    assert left == "".join(pieces[:whole])[len(prefix[:cut]) :]


@pytest.mark.parametrize("stop", ["w3", "2 w3", " w3 ", "3"])
def test_stop_strings(stop: str) -> None:
    """An answer ends before a stop string, wherever that lies in its tokens; or after it, where a server keeps it."""
    parts, finish, by = simulate_answer(Ask("m", stop=("never", stop)), FaultScript(), 16, None, ROOM)
    whole = "".join(f"w{number} " for number in range(16))
    assert "".join(str(part) for part in parts) == whole[: whole.index(stop)]
    assert (finish, by) == ("stop", stop)
    kept, _, _ = simulate_answer(Ask("m", stop=(stop,), keeps_stop=True), FaultScript(), 16, None, ROOM)
    assert "".join(str(part) for part in kept) == whole[: whole.index(stop) + len(stop)]


@pytest.mark.parametrize(
    ("limit", "room", "tokens", "finish"), [(3, 99, 3, "length"), (None, 5, 5, "length"), (16, 99, 16, "stop")]
)
def test_limits(limit: int | None, room: int, tokens: int, finish: str) -> None:
    """`max_tokens` and what is left of the context end an answer, and it says so only if there was more to say."""
    parts, why, _ = simulate_answer(Ask("m", max_tokens=limit), FaultScript(), 16, None, room)
    assert (len(parts), why) == (tokens, finish)


def test_calls() -> None:
    """Tools are called with arguments that fit; those the question names; none once a result has come."""
    schema: JsonValue = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = (Tool("weather", schema), Tool("clock", {"type": "object"}))

    def called(*turns: ConversationTurn, **more: str) -> list[str]:
        parts, finish, _ = simulate_answer(
            Ask("m", turns, tools=tools, tool=more.get("tool")), FaultScript(), 4, None, ROOM
        )
        calls = [part.call for part in parts if isinstance(part, Part) and part.last and part.call]
        assert finish == ("tool_calls" if calls else "stop")
        for call in calls:
            pieces = [part.text for part in parts if isinstance(part, Part) and part.call == call]
            assert "".join(pieces) == call.arguments
            assert isinstance(json.loads(call.arguments), dict)
        return [call.name for call in calls]

    assert called(ConversationTurn("user", "hi")) == ["weather"]
    assert called(ConversationTurn("user", "the clock please")) == ["clock"]
    assert called(ConversationTurn("user", "clock and weather")) == ["weather", "clock"]
    assert called(ConversationTurn("user", "hi"), tool="clock") == ["clock"]
    assert called(ConversationTurn("user", "hi"), ConversationTurn("tool", "sunny")) == []


@pytest.mark.parametrize(
    ("schema", "instance"),
    [
        ({"type": "object", "properties": {"a": {"type": "integer", "minimum": 7}}}, {"a": 7}),
        ({"type": "array", "items": {"enum": ["x"]}, "minItems": 2}, ["x", "x"]),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string", "maxLength": 3}}}, "sim"),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
        (
            {"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"type": "boolean"}}}]},
            {"a": 1, "b": True},
        ),
        ({"type": "number", "exclusiveMinimum": 1}, 1.5),
        ({"type": "array", "items": {"type": "string"}}, []),
        (TREE, {"v": 1, "kids": []}),
        (CHAIN, {"v": 1, "next": {"v": 1, "next": {"v": 1, "next": None}}}),
        ({**TREE, "$ref": "#/$defs/endless"}, None),
        ({}, {}),
        (True, {}),
    ],
)
def test_examples_fit_their_schema(schema: JsonValue, instance: JsonValue) -> None:
    """An example has the type, the bounds and the choices its schema wants."""
    assert json.loads(example(schema)) == instance


def test_a_schema_that_holds_itself() -> None:
    """It ends all the same."""
    schema: JsonValue = {"type": "object", "properties": {"next": {"$ref": "#"}}}
    assert json.loads(example(schema))["next"]
    assert "null" not in example(schema)


@given(st.text(max_size=200))
def test_tokens(text: str) -> None:
    """Every character is in one token, each token has a number, and they are counted alike."""
    assert "".join(split_tokens(text)) == text
    assert count_tokens(text) == len(split_tokens(text)) == len(token_ids(text))


@given(text=st.text(max_size=50), kept=st.none() | st.integers(1, 64))
def test_embeddings(text: str, kept: int | None) -> None:
    """They have length 1, also when cut, and the same text has the same."""
    vector = embedding("m", text, 64, kept)
    assert math.isclose(math.hypot(*vector), 1)
    assert len(vector) == (kept or 64)
    assert vector == embedding("m", text, 64, kept)


def test_embeddings_of_like_texts() -> None:
    """Texts that share words are closer than others; another model has other vectors."""

    def closeness(one: str, other: str) -> float:
        pairs = zip(embedding("m", one, 64), embedding("m", other, 64), strict=True)
        return sum(a * b for a, b in pairs)

    assert closeness("the cat sat", "a cat sat") > closeness("the cat sat", "markets fell today") + 0.2
    assert embedding("m", "cat", 8) != embedding("n", "cat", 8)
