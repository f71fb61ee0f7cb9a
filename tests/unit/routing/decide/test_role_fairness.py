from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.routing.contract.envelope import Envelope, Needs
from tokenlane.routing.contract.wire import Kind, Priority, new_id
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.decide.role_fairness import Head, RoleTurn, fair_order

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,30}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8"), min_size=1) | st.sampled_from(
    ["a:b", "100%", "%3A", "ü/é", "::", " ", "{x}"]
)
kinds = st.sampled_from(["chat", "embed", "command"])
priorities = st.sampled_from(["high", "normal", "low"])
abilities = st.lists(st.from_regex(r"[a-z]{1,9}", fullmatch=True), max_size=3).map(tuple)
needs = st.builds(
    Needs,
    model=st.none() | texts,
    provider=st.none() | texts,
    size=st.integers(1, 2**40),
    input=st.integers(0, 2**40),
    lane=st.none() | names,
    can=abilities,
    avoid=st.lists(names, unique=True, max_size=3).map(tuple),
)


@given(st.builds(Queue, names, kinds, priorities, needs))
def test_a_queue_is_its_name(queue: Queue) -> None:
    """Every queue is read back from its name, which is safe as a part of key names."""
    assert Queue.parse(queue.name) == queue
    assert queue.name.isascii()
    assert queue.name.isprintable()
    assert " " not in queue.name


@given(st.builds(Queue, names, kinds, priorities, needs), st.builds(Queue, names, kinds, priorities, needs))
def test_different_queues_have_different_names(one: Queue, other: Queue) -> None:
    """Two queues have one name only if they are the same."""
    assert (one.name == other.name) == (one == other)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "role",
        "r:chat:normal:1:p",
        "r:chat:normal:x:p:m",
        "r:chat:urgent:1:p:m",
        "r:talk:low:1::",
        "r:chat:low:1:::0:",
        "r:chat:low:1:::0:::l1:l2",
    ],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    """What is not a queue's name is a ValueError."""
    with pytest.raises(ValueError):
        Queue.parse(name)


def head(priority: Priority, served: int, waited_ms: int, kind: Kind = "chat") -> Head:
    """The head of some queue."""
    envelope = Envelope(id=new_id(), client="c", agent="a", role="r", kind=kind, priority=priority)
    return Head(Queue.of(envelope), "a", envelope.id, attempt=0, more=False, served=served, waited_ms=waited_ms)


def test_order() -> None:
    """Higher priority first, then the queue that was served longest ago, then who has waited longest."""
    ordered = [
        head("high", 9, 0),
        head("normal", 1, 5),
        head("normal", 2, 7),
        head("normal", 2, 6),
        head("low", 0, 1000),
    ]
    shuffled = random.Random(1).sample(ordered, len(ordered))
    assert list(fair_order(shuffled, {}, "lane1")) == ordered


def of_role(role: str, ended: int, used: int, place: int) -> Head:
    """A head of a role that has had so much of its turn at a lane."""
    queue, turn = Queue(role, "chat", "normal", Needs()), RoleTurn(0, {"lane1": (ended, used), "lane2": (1, 2)})
    return Head(queue, "a", new_id(), 0, more=False, served=0, waited_ms=0, place=place, turn=turn)


def test_a_role_that_has_had_less_than_its_turn_goes_on() -> None:
    """Whose turn ended longest ago is served first, as often as its weight still says; then the others."""
    heads = [of_role("planner", 5, 1, place) for place in range(6)]
    heads += [of_role("coder", 7, 0, place) for place in range(3)]
    shuffled = random.Random(1).sample(heads, len(heads))
    told = [head.queue.role for head in fair_order(shuffled, {"planner": 3}, "lane1")]
    assert told == ["planner"] * 2 + ["coder"] + ["planner"] * 3 + ["coder"] + ["planner"] + ["coder"]


def test_what_every_lane_can_do_makes_no_longer_names() -> None:
    """Needs that say no more than model, provider and size are named as routers of older versions know them."""
    plain = Queue("r", "chat", "normal", Needs(model="m", size=64))
    assert plain.name == "r:chat:normal:64::m"
    assert Queue("r", "chat", "normal", Needs(size=64, lane="l")).name == "r:chat:normal:64:::0:l:"
