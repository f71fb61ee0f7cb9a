"""The numbers of events follow from the answer, however it is cut into deltas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from openai._models import construct_type_unchecked
from openai._types import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent

from tokenlane.producer.gateway.question import Begun
from tokenlane.producer.gateway.responses.writer import EventWriter
from tokenlane.routing.contract.answers import Answer, TokenDelta, ToolCallDelta

_EVENT: Any = ResponseStreamEvent
BEGUN = Begun("0" * 32, "m", 7)
_TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
_DELTAS = st.lists(
    st.one_of(
        _TEXT.map(lambda text: TokenDelta(text=text)),
        _TEXT.map(lambda text: TokenDelta(reasoning=text)),
        st.tuples(_TEXT, st.integers(0, 2)).map(
            lambda drawn: TokenDelta(tool_calls=(ToolCallDelta(index=drawn[1], name="f", arguments=drawn[0]),))
        ),
    ),
    max_size=12,
)


def events_of(deltas: Sequence[TokenDelta], after: int = -1) -> list[dict[str, Any]]:
    """All events of an answer after a number."""
    writer = EventWriter(BEGUN, {}, after=after)
    written = writer.begin() + writer.deltas(deltas) + writer.end(Answer(request_id=BEGUN.request_id))
    return [json.loads(line[6:]) for line in written.decode().split("\n") if line.startswith("data: ")]


def cut(deltas: Sequence[TokenDelta]) -> list[TokenDelta]:
    """The same answer, one character at a time."""
    pieces: list[TokenDelta] = []
    for delta in deltas:
        pieces += [TokenDelta(text=letter) for letter in delta.text]
        pieces += [TokenDelta(reasoning=letter) for letter in delta.reasoning]
        for call in delta.tool_calls:
            pieces += [
                TokenDelta(tool_calls=(ToolCallDelta(index=call.index, name=call.name, arguments=letter),))
                for letter in call.arguments
            ]
    return pieces


def read(events: Sequence[dict[str, Any]]) -> object:
    """What OpenAI's client makes of the events."""
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in events:
        state.handle_event(construct_type_unchecked(type_=_EVENT, value=event))
    assert state._completed_response is not None
    return state._completed_response.model_dump()


def whole(events: Sequence[dict[str, Any]]) -> dict[tuple[str, int], str]:
    """The joined deltas of each item."""
    joined: dict[tuple[str, int], str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            key = event["type"], event["output_index"]
            joined[key] = joined.get(key, "") + event["delta"]
    return joined


@given(_DELTAS)
def test_the_client_reads_the_same_answer(deltas: list[TokenDelta]) -> None:
    """However it is cut, the answer is the same, and the deltas are what the items at the end have."""
    events, finer = events_of(deltas), events_of(cut(deltas))
    assert read(events) == read(finer)
    output = events[-1]["response"]["output"]
    texts = [item["arguments"] if "arguments" in item else item["content"][0]["text"] for item in output]
    assert {place: text for (_, place), text in whole(events).items()} == dict(enumerate(texts))


@given(_DELTAS, st.data())
def test_another_gateway_goes_on_after_any_event(deltas: list[TokenDelta], data: st.DataObject) -> None:
    """What a client got before and after it changed the gateway is the whole, with nothing twice."""
    events, finer = events_of(deltas), events_of(cut(deltas))
    stop = data.draw(st.integers(1, len(events)))
    got, after = events[:stop], events[stop - 1]["sequence_number"]
    rest = events_of(cut(deltas), after)
    numbers = [event["sequence_number"] for event in (*got, *rest)]
    assert numbers == sorted(set(numbers))
    assert whole([*got, *rest]) == whole(events)
    assert rest == [event for event in finer if event["sequence_number"] > after]
    coarser = events_of(deltas, finer[min(stop, len(finer)) - 1]["sequence_number"])
    assert whole([*finer[: min(stop, len(finer))], *coarser]) == whole(events)
