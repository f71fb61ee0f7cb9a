"""One request's buffer: whatever the channel does, every delta comes out once and in order."""

from __future__ import annotations

import random
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.producer.link.delta_buffer import DeltaBuffer
from tokenlane.producer.link.handover import PIECE_SIZE
from tokenlane.routing.contract.answers import TokenDelta, TokenLogprob, ToolCallDelta, Usage
from tokenlane.routing.contract.errors import (
    BadRequest,
    ContextTooLong,
    DeadlineExceeded,
    Interrupted,
    LlmError,
    ModelNotFound,
    ProviderDown,
    RequestCancelled,
    UnreadableAnswer,
)
from tokenlane.routing.contract.messages import (
    Cancelled,
    ChannelMessage,
    Completed,
    Deltas,
    Expired,
    Failed,
    Handover,
    Progressed,
    Replay,
    Resume,
)
from tokenlane.routing.contract.results import Progress, Vectors

ID = "0" * 32
USAGE = Usage(prompt_tokens=1, completion_tokens=2)


def deltas(first: int, *texts: str, attempt: int = 1, worker: str = "w1") -> Deltas:
    """A message of deltas."""
    return Deltas(
        attempt=attempt, worker=worker, lane="l1", model="m1", first=first, deltas=[TokenDelta(text=t) for t in texts]
    )


def completed(first: int, end: int, *texts: str, attempt: int = 1) -> Completed:
    """An ending."""
    last = [TokenDelta(text=text) for text in texts]
    return Completed(
        attempt=attempt, worker="w1", lane="l1", model="m1", first=first, end=end, usage=USAGE, deltas=last
    )


def failed(error: LlmError, first: int = 0, end: int = 0, *texts: str) -> Failed:
    """An ending with an error."""
    last = [TokenDelta(text=text) for text in texts]
    return Failed(attempt=1, worker="w1", first=first, end=end, error=error.report(), deltas=last)


def drained(buffer: DeltaBuffer) -> list[TokenDelta]:
    """All that can be popped."""
    popped = []
    while (delta := buffer.pop()) is not None:
        popped.append(delta)
    return popped


def handed_over(buffer: DeltaBuffer, attempt: int = 2, worker: str = "w2") -> list[Handover]:
    """What the buffer replies to an attempt that asks for the answer so far."""
    replies = buffer.receive(Resume(attempt=attempt, worker=worker))
    assert {reply.worker for reply in replies} == {worker}
    return [reply.message for reply in replies if isinstance(reply.message, Handover)]


def has_gap(buffer: DeltaBuffer) -> bool:
    return buffer.has_gap


def texts_of(buffer: DeltaBuffer) -> list[str]:
    return [delta.text for delta in drained(buffer)]


def over_the_wire(messages: list[ChannelMessage]) -> list[ChannelMessage]:
    """Copies, as every publication is one."""
    return [message.model_copy(deep=True) for message in messages]


def split(texts: list[str], cuts: set[int], riding: int) -> list[ChannelMessage]:
    """An answer as messages cut at these places, the last `riding` deltas in the ending."""
    body = max(0, len(texts) - riding)
    edges = sorted({0, body, *(cut for cut in cuts if cut < body)})
    messages: list[ChannelMessage] = [deltas(start, *texts[start:end]) for start, end in pairwise(edges)]
    return [*messages, completed(body, len(texts), *texts[body:])]


answers = st.lists(st.text(max_size=3), max_size=30)


@given(answers, st.sets(st.integers(0, 30)), st.integers(0, 5), st.integers(0, 2**32), st.data())
def test_any_channel_delivers_once_and_in_order(
    texts: list[str], cuts: set[int], riding: int, seed: int, data: st.DataObject
) -> None:
    """Split, duplicated, reordered and lost with replays: exactly what was sent comes out, then the end."""
    sent = split(texts, cuts, riding)
    chance = random.Random(seed)
    lost = data.draw(st.sets(st.integers(0, len(sent) - 1)))
    arriving = [message for number, message in enumerate(sent) if number not in lost]
    arriving += chance.choices(sent, k=chance.randrange(4))
    chance.shuffle(arriving)
    buffer = DeltaBuffer(ID)
    popped: list[TokenDelta] = []
    for message in over_the_wire(arriving):
        assert buffer.receive(message) == []
        popped += drained(buffer)
    for _ in range(len(sent) + 1):
        if buffer.ended:
            break
        after = buffer.replay().after
        assert after == buffer.position
        replayed = [message for message in sent if not isinstance(message, Deltas) or _ends(message) > after]
        for message in over_the_wire(replayed):
            buffer.receive(message)
        popped += drained(buffer)
    assert buffer.ended
    assert buffer.error is None
    assert [delta.text for delta in popped] == texts
    assert [delta.position for delta in popped] == list(range(len(texts)))
    assert buffer.answer.build(ID).text == "".join(texts)
    assert buffer.answer.usage == USAGE


def _ends(message: Deltas) -> int:
    return message.first + len(message.deltas)


@given(answers, st.integers(0, 30), st.integers(0, 2**32))
def test_a_handover_joins_two_attempts(texts: list[str], broke_at: int, seed: int) -> None:
    """A later attempt that goes on from the handover's position gives one whole answer, whatever the old says late."""
    broke_at = min(broke_at, len(texts))
    chance = random.Random(seed)
    buffer = DeltaBuffer(ID)
    heard = chance.randrange(broke_at + 1)
    buffer.receive(deltas(0, *texts[:heard]))
    (handover,) = handed_over(buffer, attempt=2, worker="w2")
    assert (handover.state, handover.position, handover.text) == ("open", heard, "".join(texts[:heard]))
    late = deltas(heard, *("X" for _ in texts[heard:broke_at]))
    rest: list[ChannelMessage] = [
        deltas(heard, *texts[heard:], attempt=2, worker="w2"),
        completed(len(texts), len(texts), attempt=2),
    ]
    rest.insert(chance.randrange(3), late)
    for message in over_the_wire(rest):
        buffer.receive(message)
    assert buffer.ended
    assert texts_of(buffer) == texts


@given(answers, st.integers(1, 5))
def test_unread_deltas_are_bounded_and_lose_nothing(texts: list[str], limit: int) -> None:
    """However slow the reader, at most the limit and the merged one are kept, and the text is whole."""
    buffer = DeltaBuffer(ID, unread_deltas=limit)
    for position, text in enumerate(texts):
        buffer.receive(deltas(position, text))
    popped = drained(buffer)
    assert len(popped) == min(len(texts), limit)
    assert "".join(delta.text for delta in popped) == "".join(texts)


def test_deltas_say_where_they_come_from() -> None:
    """Each delta is completed from its message."""
    buffer = DeltaBuffer(ID)
    buffer.receive(deltas(0, "a", "b", attempt=7))
    first, second = drained(buffer)
    assert first == TokenDelta(request_id=ID, attempt=7, position=0, text="a", lane="l1", model="m1")
    assert (second.position, buffer.worker, buffer.attempt) == (1, "w1", 7)


def test_older_attempts_are_not_heard() -> None:
    """Once a newer attempt has spoken, nothing of an older one counts, not even its ending."""
    buffer = DeltaBuffer(ID)
    buffer.receive(deltas(0, "a", attempt=2, worker="w2"))
    for outdated in (deltas(1, "X"), completed(1, 1), Cancelled(attempt=1), Expired(attempt=1), failed(LlmError())):
        assert buffer.receive(outdated) == []
    assert texts_of(buffer) == ["a"]
    assert not buffer.ended
    assert buffer.worker == "w2"


def test_a_newer_attempt_drops_what_the_older_held_beyond_a_gap() -> None:
    """What came after a gap belongs to the attempt it came from."""
    buffer = DeltaBuffer(ID)
    buffer.receive(deltas(1, "X"))
    assert has_gap(buffer)
    buffer.receive(deltas(0, "a", attempt=2))
    assert not has_gap(buffer)
    assert texts_of(buffer) == ["a"]


def test_resume_is_answered_by_state() -> None:
    """Stale for an attempt that is outdated, done for one that comes after the end, open otherwise."""
    buffer = DeltaBuffer(ID)
    buffer.receive(deltas(0, "a", attempt=2))
    handovers = [handed_over(buffer, attempt) for attempt in (1, 2, 3)]
    buffer.receive(Cancelled(attempt=3))
    handovers += [handed_over(buffer, attempt) for attempt in (2, 3, 4)]
    assert [only.state for (only,) in handovers] == ["stale", "open", "open", "stale", "done", "done"]
    assert [only.text for (only,) in handovers] == ["", "a", "a", "", "", ""]
    assert buffer.attempt == 4


def test_a_handover_names_the_lane_that_gave_the_part() -> None:
    """A later attempt learns where the answer so far is from; of nothing there is nothing to name."""
    buffer = DeltaBuffer(ID)
    named = []
    for attempt in (1, 2):
        (handover,) = handed_over(buffer, attempt)
        named.append((handover.lane, handover.model))
        buffer.receive(deltas(0, "a", attempt=attempt))
    assert named == [("", ""), (buffer.answer.lane, buffer.answer.model)]
    assert buffer.answer.lane


def test_a_gap_is_asked_for_from_the_first_missing() -> None:
    """What lies beyond a gap is held, and the replay asks for all from the gap on."""
    buffer = DeltaBuffer(ID)
    buffer.receive(deltas(0, "a"))
    buffer.receive(deltas(2, "c"))
    assert has_gap(buffer)
    assert buffer.replay() == Replay(id=ID, attempt=1, after=1)
    assert texts_of(buffer) == ["a"]
    buffer.receive(deltas(1, "b"))
    assert not has_gap(buffer)
    assert texts_of(buffer) == ["b", "c"]


def test_what_is_held_beyond_a_gap_is_bounded() -> None:
    """A gap that is never filled does not hold more than so many deltas; a replay brings the rest."""
    buffer = DeltaBuffer(ID)
    many = ["x"] * 10_000
    buffer.receive(deltas(1, *many))
    assert len(buffer._early) == 4096
    buffer.receive(deltas(0, "a", *many))
    buffer.receive(completed(10_001, 10_001))
    assert buffer.ended
    assert buffer.answer.text == "a" + "".join(many)


def test_an_ending_waits_for_what_came_before_it() -> None:
    """Completed ends only when all its deltas are there."""
    buffer = DeltaBuffer(ID)
    buffer.receive(completed(2, 3, "c"))
    assert has_gap(buffer)
    assert buffer.ended_by_pool
    buffer.receive(deltas(0, "a", "b"))
    assert buffer.ended
    assert texts_of(buffer) == ["a", "b", "c"]


@pytest.mark.parametrize("first", [3, 5000])
def test_an_answer_that_ends_before_the_first_position_wanted(first: int) -> None:
    """Who wants what the answer never comes to is told so at its end; who has all of it is not, nor if it failed."""
    buffer = DeltaBuffer(ID, position=first)
    for message in over_the_wire([deltas(0, "a", "b"), completed(2, 2)]):
        buffer.receive(message)
    assert buffer.ended
    assert isinstance(buffer.error, BadRequest)
    assert "ended with position 1, before the given position" in str(buffer.error)
    (nothing := DeltaBuffer(ID, position=first)).receive(completed(0, 0))
    assert "is empty" in str(nothing.error)
    has_all, broken = DeltaBuffer(ID, position=2), DeltaBuffer(ID, position=first)
    has_all.receive(completed(2, 2))
    assert (has_all.ended, has_all.error) == (True, None)
    broken.receive(failed(ContextTooLong("long"), 2, 2))
    assert isinstance(broken.error, ContextTooLong)


@pytest.mark.parametrize(
    ("ending", "error"), [(Cancelled(attempt=1), RequestCancelled), (Expired(attempt=1), DeadlineExceeded)]
)
def test_cancelled_and_expired_end_at_once(ending: ChannelMessage, error: type[LlmError]) -> None:
    """They end the buffer whatever is missing, and are themselves even in the middle of an answer."""
    buffer = DeltaBuffer(ID)
    buffer.receive(deltas(0, "a"))
    buffer.receive(deltas(2, "c"))
    buffer.receive(ending)
    assert buffer.ended
    assert isinstance(buffer.error, error)
    assert texts_of(buffer) == ["a"]


def test_an_orphan_is_told_why_it_was_cancelled() -> None:
    """By the message, and by the request's state if the message was lost; not where a client cancelled it."""
    by_message, by_state, wanted = (DeltaBuffer(ID) for _ in range(3))
    by_message.receive(Cancelled(attempt=1, code="orphaned"))
    by_state.end_as("cancelled", code="orphaned")
    wanted.receive(Cancelled(attempt=1))
    for orphan in (by_message, by_state):
        assert isinstance(orphan.error, RequestCancelled)
        assert "orphan_ms" in orphan.error.message
    assert wanted.error is not None
    assert "orphan_ms" not in wanted.error.message


@pytest.mark.parametrize(
    ("waits_after", "expired", "says_why"), [(0, 0, True), (0, 1, False), (1, 1, True), (1, 2, False)]
)
def test_an_expired_request_that_did_not_start_says_why(waits_after: int, expired: int, says_why: bool) -> None:
    """The error has the last known reason, unless a newer attempt than the one before the wait was dispatched."""
    buffer = DeltaBuffer(ID)
    buffer.note_waiting("lane 'gpu0' is down", waits_after)
    buffer.receive(Expired(attempt=expired))
    assert isinstance(buffer.error, DeadlineExceeded)
    assert ("lane 'gpu0' is down" in buffer.error.message) == says_why


@pytest.mark.parametrize("expired", [1, 2])
def test_an_expired_request_says_why_its_last_attempt_failed(expired: int) -> None:
    """That attempt may have ended before or after the client last asked why the request waits."""
    buffer = DeltaBuffer(ID)
    buffer.note_waiting("lane 'gpu0' has no free slot", 1)
    buffer.receive(Expired(attempt=expired, code="rate_limited"))
    assert isinstance(buffer.error, DeadlineExceeded)
    assert "rate_limited" in buffer.error.message


def test_an_expired_answer_says_where_it_ran() -> None:
    """A time to live that passes in the middle of an answer names lane, model and request."""
    buffer = DeltaBuffer(ID)
    buffer.receive(deltas(0, "a"))
    buffer.receive(Expired(attempt=1))
    error = buffer.error
    assert isinstance(error, DeadlineExceeded)
    assert (error.lane, error.model, error.request_id) == ("l1", "m1", ID)


def test_a_failure_comes_after_what_was_said_before() -> None:
    """The error of a failed request is raised after the deltas up to it; one about the request stays itself."""
    buffer = DeltaBuffer(ID)
    buffer.receive(failed(BadRequest("no"), 1, 2, "b"))
    assert not buffer.ended
    buffer.receive(deltas(0, "a"))
    assert isinstance(buffer.error, BadRequest)
    assert texts_of(buffer) == ["a", "b"]


def test_a_retryable_failure_before_anything_came_is_itself() -> None:
    """Where nothing was delivered nothing was interrupted."""
    buffer = DeltaBuffer(ID)
    buffer.receive(failed(ProviderDown("gone")))
    assert isinstance(buffer.error, ProviderDown)


@pytest.mark.parametrize(
    "error",
    [
        ProviderDown("gone", lane="l1"),
        ProviderDown("too large", lane="l1", retryable=False),
        LlmError("odd", lane="l1"),
    ],
)
def test_a_broken_answer_is_interrupted(error: LlmError) -> None:
    """A retryable or unknown failure after a part, or a server's own, is Interrupted, with the part and the cause."""
    buffer = DeltaBuffer(ID)
    buffer.receive(deltas(0, "half"))
    buffer.receive(failed(error, 1, 1))
    assert isinstance(buffer.error, Interrupted)
    assert (buffer.error.partial, buffer.error.lane) == ("half", "l1")
    assert type(buffer.error.__cause__) is type(error)


def test_after_the_end_nothing_counts() -> None:
    """The first end stands."""
    buffer = DeltaBuffer(ID)
    buffer.receive(completed(0, 1, "a"))
    buffer.receive(deltas(1, "b", attempt=2))
    buffer.fail(RequestCancelled())
    assert buffer.error is None
    assert texts_of(buffer) == ["a"]


def test_an_endless_answer_is_refused() -> None:
    """An answer longer than the limit ends with an error, read or not, and is not ended_by_pool in the pool."""
    buffer = DeltaBuffer(ID, longest_answer=10)
    for position in range(6):
        buffer.receive(deltas(position, "ab"))
        buffer.pop()
    assert isinstance(buffer.error, Interrupted)
    assert not buffer.ended_by_pool
    buffer.receive(deltas(6, "ab"))
    assert buffer.position == 6


def test_only_plain_neighbours_are_merged() -> None:
    """Tool calls, reasoning next to text, and ends of answers stay by themselves."""
    buffer = DeltaBuffer(ID, unread_deltas=1)
    pieces = [
        TokenDelta(text="a"),
        TokenDelta(text="b"),
        TokenDelta(reasoning="r"),
        TokenDelta(reasoning="s"),
        TokenDelta(tool_calls=(ToolCallDelta(index=0),)),
        TokenDelta(text="c"),
        TokenDelta(finish_reason="stop"),
    ]
    buffer.receive(Deltas(attempt=1, worker="w", lane="l", model="m", first=0, deltas=pieces))
    popped = drained(buffer)
    assert [(d.position, d.text, d.reasoning) for d in popped] == [
        (1, "ab", ""),
        (3, "", "rs"),
        (4, "", ""),
        (5, "c", ""),
        (6, "", ""),
    ]
    assert popped[2].tool_calls
    assert popped[4].finish_reason == "stop"


def test_logprobs_are_kept_where_deltas_are_merged() -> None:
    """Each token has its own, in the answer too, in the order they came."""
    buffer = DeltaBuffer(ID, unread_deltas=1)
    pieces = [TokenDelta(text=text, logprobs=(TokenLogprob(token=text, logprob=-1),)) for text in "abc"]
    buffer.receive(Deltas(attempt=1, worker="w", lane="l", model="m", first=0, deltas=pieces))
    (merged,) = drained(buffer)
    for said in (merged, buffer.answer.build(ID)):
        assert (said.text, [token.token for token in said.logprobs]) == ("abc", ["a", "b", "c"])


def test_an_unreadable_answer_that_had_begun_keeps_its_part() -> None:
    """The agent that has a part of the answer hears that it broke off, and why."""
    buffer = DeltaBuffer(ID)
    buffer.receive(deltas(0, "a"))
    buffer.fail(UnreadableAnswer("choices is a number"))
    assert isinstance(buffer.error, Interrupted)
    assert (buffer.error.partial, buffer.error.retryable) == ("a", False)
    nothing = DeltaBuffer(ID)
    nothing.fail(UnreadableAnswer())
    assert isinstance(nothing.error, UnreadableAnswer)


def test_merging_takes_linear_time() -> None:
    """A merged delta does not grow for ever, which would copy its text again and again."""
    buffer = DeltaBuffer(ID, unread_deltas=1)
    for position in range(100):
        buffer.receive(deltas(position, "x" * 1000))
    assert max(len(delta.text) for delta in drained(buffer)) < 6000


def test_a_result_comes_whole_with_the_ending() -> None:
    """What is no chat ends with its result, which is one position; progress before it is news, the newest counts."""
    buffer, result = DeltaBuffer(ID), Vectors(dimensions=1, data="AAAA")
    for done in (1, 2):
        progress = Progress(step="pulling", done_bytes=done)
        buffer.receive(Progressed(attempt=1, worker="w1", lane="l1", progress=progress))
    assert buffer.progress == Progress(step="pulling", done_bytes=2)
    assert (buffer.position, buffer.ended) == (0, False)
    ending = completed(0, 1).model_copy(update={"result": result})
    buffer.receive(ending)
    assert (buffer.ended, buffer.error, buffer.position, buffer.result) == (True, None, 1, result)
    assert drained(buffer) == []
    assert buffer.answer.build(ID).model == "m1"


def test_a_handover_has_the_text_up_to_the_first_gap() -> None:
    """Text, position and tokens belong together: an empty delta counts for the position, and reasoning for the
    tokens."""
    buffer = DeltaBuffer(ID)
    pieces = [TokenDelta(reasoning="hm"), TokenDelta(text="a"), TokenDelta(), TokenDelta(text="b")]
    buffer.receive(Deltas(attempt=1, worker="w", lane="l", model="m", first=0, deltas=pieces))
    buffer.receive(deltas(5, "X"))
    (handover,) = handed_over(buffer)
    assert (handover.text, handover.position, handover.tokens) == ("ab", 4, 3)
    assert (handover.piece, handover.pieces, handover.finish_reason, handover.obstacle) == (0, 1, None, "")
    assert "ab" not in repr(handover)


def test_the_lanes_own_name_of_the_model_is_handed_over() -> None:
    """The agent itself reads the name that the model server gave."""
    buffer = DeltaBuffer(ID)
    buffer.receive(deltas(0, "a").model_copy(update={"model": "m-2026", "served_as": "m"}))
    (handover,) = handed_over(buffer)
    assert (handover.model, buffer.answer.model) == ("m", "m-2026")


@pytest.mark.parametrize("size", [0, 1, PIECE_SIZE, PIECE_SIZE + 1, 3 * PIECE_SIZE])
def test_a_long_text_is_handed_over_in_pieces(size: int) -> None:
    """The pieces give the text, say how many they are, and have the same position."""
    text = "\U0001f600" * size
    buffer = DeltaBuffer(ID)
    buffer.receive(deltas(0, text, ""))
    pieces = [Handover.model_validate_json(piece.to_wire()) for piece in handed_over(buffer)]
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.piece for piece in pieces] == list(range(max(1, -(-size // PIECE_SIZE))))
    assert {(piece.pieces, piece.position, piece.attempt) for piece in pieces} == {(len(pieces), 2, 2)}


@pytest.mark.parametrize(
    ("obstacle", "first", "received"),
    [
        ("", 0, []),
        ("", 0, [TokenDelta(text="a")]),
        ("", 0, [TokenDelta(reasoning="r"), TokenDelta(text="a")]),
        ("reasoning", 0, [TokenDelta(reasoning="r")]),
        ("tool_call", 0, [TokenDelta(text="a"), TokenDelta(tool_calls=(ToolCallDelta(name="f"),))]),
        ("part", 1, []),
        ("part", 1, [TokenDelta(text="b")]),
        ("", 0, [TokenDelta(reasoning="r"), TokenDelta(finish_reason="stop")]),
        ("tool_call", 0, [TokenDelta(tool_calls=(ToolCallDelta(name="f"),)), TokenDelta(finish_reason="length")]),
    ],
)
def test_a_handover_says_why_no_lane_can_continue(obstacle: str, first: int, received: list[TokenDelta]) -> None:
    """A tool call has begun, there is only reasoning, or the agent joined in the middle. An answer whose end has
    arrived needs no lane, but its worker must know of the call."""
    buffer = DeltaBuffer(ID, position=first)
    buffer.receive(Deltas(attempt=1, worker="w", lane="l", model="m", first=first, deltas=received))
    (handover,) = handed_over(buffer)
    assert handover.obstacle == obstacle
    assert handover.finish_reason == (received[-1].finish_reason if received else None)


def anew(first: int, *texts: str, attempt: int = 2) -> Deltas:
    """Deltas of an attempt that gives the answer anew."""
    return deltas(first, *texts, attempt=attempt, worker="w2").model_copy(update={"begun_by": attempt})


def test_a_restart_voids_the_answer_and_says_so() -> None:
    """Positions begin at 0, the first delta is marked, unread deltas of the old answer are dropped, and later attempts
    continue the new answer."""
    buffer = DeltaBuffer(ID, may_restart=True)
    buffer.receive(deltas(0, "a", "b", "c"))
    assert buffer.pop() is not None
    assert handed_over(buffer)[0].position == 3
    for message in over_the_wire([anew(1, "y"), anew(0, "x")]):
        buffer.receive(message)
    popped = drained(buffer)
    assert [(delta.text, delta.position, delta.restarted) for delta in popped] == [("x", 0, True), ("y", 1, False)]
    (handover,) = handed_over(buffer, attempt=3)
    assert (handover.text, handover.position, handover.tokens, handover.obstacle) == ("xy", 2, 2, "")
    assert handover.begun_by == 2
    for message in over_the_wire([deltas(2, "z", attempt=3), completed(3, 3, attempt=3)]):
        buffer.receive(message)
    assert (buffer.ended, buffer.error, buffer.answer.text) == (True, None, "xyz")


@pytest.mark.parametrize("may_restart", [False, True])
def test_a_reader_that_missed_a_restart_never_joins_two_answers(may_restart: bool) -> None:
    """It learns from the attempt that continues the new answer that what it has is void."""
    buffer = DeltaBuffer(ID, may_restart=may_restart)
    buffer.receive(deltas(0, "a", "b"))
    third = partial(deltas, attempt=3, worker="w3")
    buffer.receive(third(2, "z").model_copy(update={"begun_by": 2}))
    if may_restart:
        assert buffer.replay().after == 0
        buffer.receive(third(0, "x", "y").model_copy(update={"begun_by": 2}))
        assert buffer.answer.text == "xyz"
    else:
        assert isinstance(buffer.error, Interrupted)
        assert (buffer.error.partial, texts_of(buffer)) == ("ab", ["a", "b"])


def test_a_restart_that_the_agent_did_not_allow_interrupts_the_answer() -> None:
    """The reader keeps the part that it has."""
    buffer = DeltaBuffer(ID)
    buffer.receive(deltas(0, "a"))
    buffer.receive(anew(0, "x"))
    assert isinstance(buffer.error, Interrupted)
    assert buffer.error.partial == "a"
    assert texts_of(buffer) == ["a"]


def test_a_reader_without_a_part_needs_no_restart() -> None:
    """To a reader that has nothing yet, the new answer is the answer."""
    buffer = DeltaBuffer(ID)
    buffer.receive(anew(0, "x"))
    (delta,) = drained(buffer)
    assert (delta.text, delta.restarted, buffer.error) == ("x", False, None)


def test_a_restart_that_failed_before_its_first_delta_voids_nothing() -> None:
    """The part of the earlier answer is the best that the agent can have."""
    buffer = DeltaBuffer(ID, may_restart=True)
    buffer.receive(deltas(0, "a"))
    buffer.receive(Failed(attempt=2, worker="w2", error=ProviderDown("gone").report(), begun_by=2))
    assert isinstance(buffer.error, Interrupted)
    assert buffer.error.partial == "a"


def test_a_reader_that_joined_in_the_middle_of_a_voided_answer_gets_the_new_one() -> None:
    """From its beginning, and with nothing missing for a later handover."""
    buffer = DeltaBuffer(ID, position=7, may_restart=True)
    buffer.receive(anew(2, "z"))
    assert buffer.replay().after == 0
    buffer.receive(anew(0, "x", "y", "z"))
    assert [(delta.text, delta.restarted) for delta in drained(buffer)] == [("x", True), ("y", False), ("z", False)]
    assert handed_over(buffer, attempt=3)[0].obstacle == ""


@pytest.mark.parametrize("error", [ModelNotFound("no lane has it"), BadRequest("no such lane"), Interrupted("no lane")])
def test_a_router_that_refuses_a_begun_answer_interrupts_it(error: LlmError) -> None:
    """Lanes accepted the request before, so whatever the router's error is, the agent gets its part with it."""
    buffer, nothing = DeltaBuffer(ID), DeltaBuffer(ID)
    buffer.receive(deltas(0, "a"))
    for refused in (buffer, nothing):
        refused.receive(Failed(attempt=1, error=error.report()))
    assert isinstance(buffer.error, Interrupted)
    assert (buffer.error.partial, buffer.error.lane, buffer.error.request_id) == ("a", "l1", ID)
    assert type(nothing.error) is type(error)


def replayed(text: str, stands_for: int, *, begun_by: int = 0) -> Deltas:
    """The part of an earlier attempt, as the worker that continues it replays it."""
    part = deltas(0, text, attempt=2)
    return part.model_copy(update={"stands_for": stands_for, "begun_by": begun_by})


@pytest.mark.parametrize("has", [0, 1, 2, 3])
@pytest.mark.parametrize("part_first", [True, False])
def test_a_reader_gets_the_part_that_was_handed_over(has: int, part_first: bool) -> None:
    """Whatever it has of the answer, it gets the rest of the part as one delta, and then what follows. The tokens of
    the part count, so that the next handover leaves only the rest of `max_tokens`."""
    buffer = DeltaBuffer(ID)
    if has:
        buffer.receive(deltas(0, *["a", "b", "c"][:has]))
    messages = [replayed("abc", 3), deltas(3, "d", attempt=2)]
    buffer.receive(Deltas(attempt=2, worker="w", lane="l", model="m", first=4, deltas=[]))
    for message in messages if part_first else reversed(messages):
        buffer.receive(message.model_copy(deep=True))
    got = drained(buffer)
    assert ("".join(delta.text for delta in got), buffer.answer.text, buffer.position) == ("abcd", "abcd", 4)
    assert buffer.answer.tokens == 4
    positions = [delta.position for delta in got]
    assert positions == [*range(has), *([2] if has < 3 else []), 3]


@pytest.mark.parametrize("has", [0, 1, 2])
def test_a_reader_gets_the_reasoning_that_was_handed_over(has: int) -> None:
    """Whatever it has of it, and also from a worker of an older version, which does not know it."""
    first = [TokenDelta(reasoning="hm "), TokenDelta(reasoning="yes"), TokenDelta(text="a")]
    owner, reader, older = (DeltaBuffer(ID) for _ in range(3))
    for buffer, count in ((owner, 3), (reader, has), (older, has)):
        buffer.receive(Deltas(attempt=1, worker="w", lane="l", model="m", first=0, deltas=first[:count]))
    (handover,) = handed_over(owner)
    assert (handover.text, handover.reasoning) == ("a", "hm yes")
    part = replayed("a", 3)
    older.receive(part.model_copy(deep=True))
    assert older.answer.text == "a"
    reader.receive(part.model_copy(update={"deltas": [TokenDelta(reasoning="hm yes", text="a")]}))
    assert (reader.answer.reasoning, reader.answer.text, reader.position) == ("hm yes", "a", 3)


@pytest.mark.parametrize("position", [1, 2])
def test_a_reader_that_joined_in_the_part_does_not_get_it(position: int) -> None:
    """It lacks the beginning, so it cannot know where in the text it stands."""
    buffer = DeltaBuffer(ID, position=position)
    buffer.receive(replayed("abc", 3))
    assert (drained(buffer), buffer.position) == ([], position)


def test_a_part_that_differs_is_not_joined_to_what_a_reader_has() -> None:
    """Nobody's text is changed by a worker whose agent had another."""
    buffer = DeltaBuffer(ID)
    buffer.receive(deltas(0, "x"))
    buffer.receive(replayed("abc", 3))
    assert (buffer.answer.text, buffer.position) == ("x", 1)


def test_a_replayed_part_of_an_answer_that_began_anew() -> None:
    """A reader of the old answer that allows a new one drops the old one first."""
    buffer = DeltaBuffer(ID, may_restart=True)
    buffer.receive(deltas(0, "x"))
    buffer.receive(replayed("abc", 3, begun_by=2))
    (delta,) = drained(buffer)
    assert (delta.text, delta.restarted, buffer.answer.text, buffer.position) == ("abc", True, "abc", 3)
