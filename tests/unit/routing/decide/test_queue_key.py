"""The names of queues in Redis keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.decide.queue_key import Queue

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,8}", fullmatch=True)
MODELS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
ABILITIES = st.lists(st.sampled_from(["prefill", "schema", "tools", "vision"]), unique=True).map(sorted).map(tuple)


@st.composite
def needs(draw: st.DrawFn) -> Needs:
    """Any needs. Only requests that continue an answer may begin it anew."""
    continues = draw(st.none() | MODELS)
    return Needs(
        model=draw(st.none() | MODELS),
        provider=draw(st.none() | NAMES),
        size=draw(st.integers(1, 10**6)),
        input=draw(st.integers(0, 10**6)),
        lane=draw(st.none() | NAMES),
        can=draw(ABILITIES),
        avoid=draw(st.lists(NAMES, unique=True, max_size=3).map(tuple)),
        continues=continues,
        restarts=continues is not None and draw(st.booleans()),
    )


QUEUES = st.builds(
    Queue,
    role=NAMES,
    kind=st.sampled_from(["chat", "embed"]),
    priority=st.sampled_from(["high", "normal", "low"]),
    needs=needs(),
)


@given(QUEUES, QUEUES)
def test_a_queue_has_a_name_of_its_own(one: Queue, other: Queue) -> None:
    """Its name is parsed into the same queue, and a different queue has a different name."""
    assert Queue.parse(one.name) == one
    assert one.name.startswith(f"{one.turn}:")
    assert (one.name == other.name) == (one == other)


@pytest.mark.parametrize("name", ["", "r:chat", "r:chat:urgent:1::", "r:dance:low:1::", "r:chat:low:big::"])
def test_other_text_is_not_the_name_of_a_queue(name: str) -> None:
    """A name that another version or program wrote is refused."""
    with pytest.raises(ValueError):
        Queue.parse(name)
