"""Long conversations are shortened by whole turns, in large steps."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.producer.conversation.history import check_order, system_size
from tokenlane.producer.conversation.record import Record
from tokenlane.producer.conversation.trim import KEPT_SHARE, TokenEstimate, sent, shorten
from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.requests import Message

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOLS: list[dict[str, object]] = [{"type": "function", "function": {"name": "f", "description": "x" * 400}}]


def user(size: int) -> Message:
    return Message(role="user", content="q" * size)


@st.composite
def turns(draw: st.DrawFn) -> list[Message]:
    """A question with its answer, maybe after a tool call and its result."""
    size = st.integers(0, 2000)
    turn = [user(draw(size))]
    if draw(st.booleans()):
        turn += [Message(role="assistant", tool_calls=[CALL]), Message(role="tool", tool_call_id="c", content="r")]
    return [*turn, Message(role="assistant", content="a" * draw(size))]


systems = st.lists(st.integers(0, 500), max_size=2).map(
    lambda sizes: [Message(role="system", content="s" * size) for size in sizes]
)


@given(systems, st.lists(turns(), max_size=8), st.integers(0, 2000), st.integers(1, 4000))
def test_what_is_sent(system: list[Message], earlier: list[list[Message]], question: int, target: int) -> None:
    """The system's messages, then whole turns up to the question: as many as fit, and at least the question's."""
    asked, estimate = user(question), TokenEstimate()
    messages = [*system, *(message for turn in earlier for message in turn)]
    rest = sent([*messages, asked], shorten([*messages, asked], 0, target, estimate))
    assert rest[: len(system)] == system
    assert rest[-1] is asked
    check_order(rest[:-1])
    kept = rest[len(system) :]
    assert kept == [*messages, asked][-len(kept) :]
    assert kept == [asked] or estimate.of(rest) <= target or not earlier


@given(st.lists(turns(), min_size=1, max_size=30), st.integers(200, 3000), st.floats(0.3, 5))
def test_prompts_share_their_beginning(conversation: list[list[Message]], limit: int, ratio: float) -> None:
    """Each prompt begins with the one before, except after a step, which makes room for further turns."""
    record, prompts, steps = Record([user(0), Message(role="assistant", content="a")], limit), [], [0]
    record.estimate.learn(Usage(prompt_tokens=round(ratio * 10_000)), [user(40_000 - 32)])
    for question, *rest in conversation:
        prompts.append(record.prompt([question], None))
        steps.append(record.left_out)
        assert record.estimate.of(prompts[-1]) <= limit or prompts[-1] == [question]
        if steps[-1] > steps[-2]:
            assert record.estimate.of(prompts[-1]) <= KEPT_SHARE * limit or prompts[-1] == [question]
        record.messages += [question, *rest]
    for (before, after), (old, new) in zip(pairwise(prompts), pairwise(steps[1:]), strict=True):
        assert new > old or after[: len(before)] == before


def test_a_server_s_count_corrects_the_estimate() -> None:
    """Tools count, and a count that cannot be of the whole prompt is taken for half of our estimate."""
    estimate, messages = TokenEstimate(), [user(4000)]
    bare, with_tools = estimate.of(messages), estimate.of(messages, TOOLS)  # type: ignore[arg-type]  # JSON values
    assert with_tools > bare + 100
    estimate.learn(Usage(), messages)
    assert estimate.of(messages) == bare
    estimate.learn(Usage(prompt_tokens=round(3 * bare)), messages)
    assert estimate.of(messages) == pytest.approx(3 * bare)
    estimate.learn(Usage(prompt_tokens=1), messages)
    assert estimate.of(messages) == pytest.approx(bare / 2)


def test_half_is_left_out_after_a_refusal() -> None:
    """Until only the question is left."""
    answered = [message for _ in range(4) for message in (user(400), Message(role="assistant", content="a" * 400))]
    record, asked = Record([Message(role="system", content="s"), *answered], None), [user(400)]
    assert len(record.prompt(asked, None)) == 10
    lengths = []
    while record.halve(asked, None):
        lengths.append(len(record.prompt(asked, None)))
    assert lengths == [4, 2]
    assert len(record.messages) == 9
    assert system_size(record.messages) == 1
