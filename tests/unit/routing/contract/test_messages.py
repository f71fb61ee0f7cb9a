from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tokenlane.routing.contract import messages
from tokenlane.routing.contract.answers import (
    Answer,
    TokenDelta,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from tokenlane.routing.contract.envelope import Envelope, Needs
from tokenlane.routing.contract.errors import ErrorReport
from tokenlane.routing.contract.messages import (
    Cancel,
    Cancelled,
    Completed,
    Deltas,
    Expired,
    Failed,
    Handover,
    Replay,
    Resume,
    channel_message,
    control_message,
    delta_piece,
    deltas_writer,
)
from tokenlane.routing.contract.requests import ChatRequest, EmbedRequest, Message
from tokenlane.routing.contract.results import Vectors
from tokenlane.routing.contract.wire import WIRE_VERSION, new_id
from tokenlane.routing.store.replies.claim import ClaimedAttempt

MARK = "PROMPT-MARK"
text = st.text(st.characters(codec="utf-8"))
attempts = st.integers(0, 10**13)
usages = st.builds(Usage, prompt_tokens=st.integers(0, 10**6), queue_ms=st.floats(0, 1e9))
delta = st.builds(
    TokenDelta,
    position=attempts,
    text=text,
    reasoning=text,
    tool_calls=st.lists(st.builds(ToolCallDelta, index=st.integers(0, 9), arguments=text), max_size=2).map(tuple),
    finish_reason=st.sampled_from([None, "stop", "length"]),
    usage=st.none() | usages,
    logprobs=st.lists(
        st.builds(
            TokenLogprob,
            token=text,
            logprob=st.floats(-9999, 0),
            top_logprobs=st.lists(st.builds(TopLogprob, token=text, logprob=st.floats(-9999, 0)), max_size=2).map(
                tuple
            ),
        ),
        max_size=2,
    ).map(tuple),
)
deltas = st.lists(delta, max_size=3)
common = {"attempt": attempts, "worker": text, "lane": text, "model": text, "first": attempts}
reports = st.builds(ErrorReport, code=text, message=text, detail=text)
channel = st.one_of(
    st.builds(Deltas, deltas=deltas, **common),
    st.builds(Completed, deltas=deltas, end=attempts, usage=usages, **common),
    st.builds(Failed, deltas=deltas, error=reports, **common),
    st.builds(Resume, attempt=attempts, worker=text),
    st.builds(Cancelled, attempt=attempts),
    st.builds(Expired, attempt=attempts),
)
control = st.one_of(
    st.builds(Cancel, id=text, attempt=attempts, reason=st.sampled_from(["cancelled", "expired"])),
    st.builds(Replay, id=text, attempt=attempts, after=attempts),
    st.builds(Handover, id=text, attempt=attempts, state=st.sampled_from(["open", "done", "stale"])),
)


def with_unknown_fields(value: Any) -> Any:
    """The JSON value as a newer version might send it."""
    if isinstance(value, dict):
        return {"of_tomorrow": [MARK], **{name: with_unknown_fields(part) for name, part in value.items()}}
    return [with_unknown_fields(part) for part in value] if isinstance(value, list) else value


@given(channel)
def test_channel_messages_survive_the_wire(message: messages.ChannelMessage) -> None:
    """What goes onto a delta channel arrives as it was, also with fields nobody knows, and says its version."""
    wire = message.to_wire()
    assert channel_message(wire) == message
    assert channel_message(json.dumps(with_unknown_fields(json.loads(wire))).encode()) == message
    assert json.loads(wire)["v"] == WIRE_VERSION


@given(control)
def test_control_messages_survive_the_wire(message: messages.ControlMessage) -> None:
    """What goes onto a control channel arrives as it was, also with fields nobody knows."""
    wire = message.to_wire()
    assert control_message(wire) == message
    assert control_message(json.dumps(with_unknown_fields(json.loads(wire))).encode()) == message


@given(text, st.none() | text, st.integers(1, 86_400_000))
def test_requests_survive_the_wire(content: str, model: str | None, time_to_live_ms: int) -> None:
    """A request's payload and envelope arrive as they were."""
    request = ChatRequest(
        role="coder", messages=[Message(role="user", content=content)], extra={"a": content}, time_to_live_ms=1
    )
    assert ChatRequest.model_validate_json(request.to_wire()) == request
    envelope = Envelope(
        id=request.id, client="c", agent="a", role="coder", needs=Needs(model=model), time_to_live_ms=time_to_live_ms
    )
    assert Envelope.model_validate_json(envelope.to_wire()) == envelope


def full_of_content() -> list[BaseModel]:
    """One of every kind that may hold what an agent said or was told, full of it."""
    call = ToolCall(id="1", name="f", arguments=MARK)
    token = TokenLogprob(token=MARK, logprob=-1, top_logprobs=(TopLogprob(token=MARK, logprob=-1),))
    piece = TokenDelta(text=MARK, reasoning=MARK, tool_calls=(ToolCallDelta(arguments=MARK),), logprobs=(token,))
    report = ErrorReport(code="error", detail=MARK)
    message = Message(role="user", content=[{"type": "text", "text": MARK}], tool_calls=[{"function": MARK}])
    request = ChatRequest(
        role="coder",
        messages=[message, Message(role="user", content=MARK)],
        stop=[MARK],
        tools=[{"description": MARK}],
        tool_choice={"function": MARK},
        response_format={"schema": MARK},
        extra={"prompt": MARK},
        metadata={"note": MARK},
    )
    vectors = Vectors(dimensions=1, data=MARK)
    return [
        *(call, token, piece, report, message, request),
        Answer(request_id="1", text=MARK, reasoning=MARK, tool_calls=(call,), logprobs=(token,)),
        Deltas(attempt=1, worker="w", lane="l", model="m", first=0, deltas=[piece]),
        Completed(attempt=1, worker="w", lane="l", model="m", first=0, end=1, usage=Usage(), deltas=[piece]),
        Failed(attempt=1, error=report, deltas=[piece]),
        EmbedRequest(role="indexer", inputs=[MARK], idempotency_key=MARK, metadata={"note": MARK}),
        vectors,
        Completed(attempt=1, worker="w", lane="l", model="m", first=0, end=1, usage=Usage(), result=vectors),
    ]


@pytest.mark.parametrize("value", full_of_content(), ids=lambda value: type(value).__name__)
def test_content_is_in_no_repr(value: BaseModel) -> None:
    """Neither repr nor str of what holds content shows it."""
    assert MARK in value.model_dump_json()
    assert MARK not in repr(value)
    assert MARK not in str(value)


def test_a_payload_is_in_no_repr() -> None:
    """What a worker is given to run is not shown, also in a pool that is not sealed."""
    envelope = Envelope(id=new_id(), client="c", agent="a", role="coder")
    assert MARK not in repr(ClaimedAttempt(1, envelope, MARK.encode(), "m", 1, 1, 1, cancelled=False, needs=Needs()))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | text | st.just(MARK),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([it for it in full_of_content() if not isinstance(it, ErrorReport)]), st.randoms(), json_values)
def test_content_is_in_no_validation_error(value: BaseModel, dice: Any, wrong: Any) -> None:
    """A message with any one field wrong is refused without quoting it."""
    fields = json.loads(value.model_dump_json())
    fields[dice.choice(list(fields))] = [MARK, wrong]
    shown = ""
    try:
        type(value).model_validate_json(json.dumps(fields))
    except ValidationError as error:
        shown = f"{error} {error!r}"
    assert MARK not in shown


@pytest.mark.parametrize("read", [channel_message, control_message])
@pytest.mark.parametrize(
    "data",
    [
        MARK.encode(),
        b'{"type":"deltas","deltas":"' + MARK.encode() + b'"}',
        b'["' + MARK.encode() + b'"]',
        b'{"type":"cancel","id":["' + MARK.encode() + b'"]}',
        b"\xff" + MARK.encode(),
        b"",
    ],
)
def test_what_is_no_message_is_not_quoted(read: Any, data: bytes) -> None:
    """Bytes that are no message raise a ValidationError that does not show them."""
    with pytest.raises(ValidationError) as refused:
        read(data)
    assert MARK not in str(refused.value) + repr(refused.value)


@pytest.mark.parametrize("request_id", ["", "r1", "A" * 32, "0" * 31, "0" * 32 + "\n", '"' * 32])
def test_ids_are_hexadecimal(request_id: str) -> None:
    """Ids are parts of key names and of JSON that scripts write, so they are 32 hexadecimal digits and nothing else."""
    with pytest.raises(ValidationError):
        Envelope(id=request_id, client="c", agent="a", role="r")
    assert Envelope(id=new_id(), client="c", agent="a", role="r").v == WIRE_VERSION


@pytest.mark.parametrize("name", ["", "a:b", "a b", "ü", "-a", "a\n", "a" * 129, "{a}", "a/b"])
def test_names_are_safe_in_keys(name: str) -> None:
    """Roles, agents and clients are letters, digits and `_ . @ -`, 128 at most."""
    for field in ("role", "agent", "client"):
        with pytest.raises(ValidationError):
            Envelope.model_validate({"id": new_id(), "client": "c", "agent": "a", "role": "r", field: name})


@given(st.integers(0, 10**6), st.lists(delta, max_size=3), text)
def test_the_writer_of_deltas_writes_what_the_message_is(first: int, deltas: list[TokenDelta], model: str) -> None:
    """The fast way to write deltas gives the bytes of the message itself."""
    message = Deltas(attempt=7, worker="w1", lane="l1", model=model, first=first, deltas=deltas)
    assert deltas_writer(7, "w1", "l1", model)(first, map(delta_piece, deltas)) == message.to_wire()


def test_the_writer_of_deltas_writes_what_is_rare() -> None:
    """The attempt that began the answer anew, and the lane's own name of the model."""
    message = Deltas(attempt=7, worker="w", lane="l", model="m", first=0, deltas=[], begun_by=7, served_as='m"1')
    assert deltas_writer(7, "w", "l", "m", begun_by=7, served_as='m"1')(0, []) == message.to_wire()


@pytest.mark.parametrize("field", ["pieces", "piece", "model", "lane"])
def test_a_handover_is_bounded(field: str) -> None:
    """In a pool without a key, whoever has the password may write one, and a worker keeps the pieces."""
    wrong = {"pieces": messages.MOST_PIECES + 1, "piece": -1, "model": "m" * 1025, "lane": "l" * 1025}
    with pytest.raises(ValidationError):
        control_message(json.dumps({"type": "handover", "id": new_id(), "attempt": 1, field: wrong[field]}).encode())


def test_what_is_absent_costs_nothing() -> None:
    """A delta of text alone is as short on the wire as it was before there was anything else."""
    wire = deltas_writer(7, "w1", "l1", "m")(0, [delta_piece(TokenDelta(text="a"))])
    assert wire.endswith(b'"deltas":[{"text":"a"}]}')
