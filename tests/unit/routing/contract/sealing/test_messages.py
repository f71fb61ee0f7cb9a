"""What sealing promises of the messages about one request."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.config.host.pool_key_files import PoolKey
from tokenlane.routing.contract.sealing.messages import Direction, Opener, Sealer
from tokenlane.routing.contract.wire import new_id

KEY, OTHER = PoolKey.new(), PoolKey.new()
ID = new_id()
messages = st.binary(max_size=500).filter(lambda message: not message.endswith(b" "))


def opener(*keys: PoolKey, request_id: str = ID, direction: Direction = "answer") -> Opener:
    return Opener(lambda: keys, request_id, direction)


@given(st.lists(messages, min_size=1, max_size=5), st.randoms())
def test_sealed_messages_open_in_any_order_and_any_number_of_times(sent: list[bytes], random: Random) -> None:
    """Messages may be lost, repeated or arrive out of order; each sealed message differs from every other."""
    sealer = Sealer(KEY, ID, "answer")
    sealed = [sealer.seal(message) for message in sent]
    assert len(set(sealed)) == len(sealed)
    arrivals = random.choices(range(len(sent)), k=2 * len(sent))
    reader = opener(OTHER, KEY)
    assert [reader.open(sealed[place]) for place in arrivals] == [sent[place] for place in arrivals]
    assert reader.key == KEY


@given(messages.filter(lambda message: len(message) > 4))
def test_a_sealed_message_does_not_contain_the_message(message: bytes) -> None:
    """Two seals of the same message differ, and neither contains it."""
    first, second = (Sealer(KEY, ID, "answer").seal(message) for _ in range(2))
    assert first != second
    assert message not in first[25:]  # the header is a salt and a counter


@given(messages, st.integers(0), st.integers(0, 7))
def test_a_flipped_bit_is_noticed(message: bytes, place: int, bit: int) -> None:
    """A message of which one bit was changed, anywhere, cannot be opened, and later messages of its sender can."""
    sealer, reader = Sealer(KEY, ID, "answer"), opener(KEY)
    sealed = bytearray(sealer.seal(message))
    sealed[place % len(sealed)] ^= 1 << bit
    assert reader.open(bytes(sealed)) is None
    assert reader.open(sealer.seal(b"next")) == b"next"
    assert reader.open(bytes(sealed)) is None


def test_a_message_that_was_cut_short_cannot_be_opened() -> None:
    """No beginning of a sealed message can be opened, whether its sender is known or not."""
    sealed = Sealer(KEY, ID, "answer").seal(b"{}")
    known = opener(KEY)
    assert known.open(sealed) == b"{}"
    for reader in (known, opener(KEY)):
        assert {reader.open(sealed[:length]) for length in range(len(sealed))} == {None}


@pytest.mark.parametrize(
    "reader",
    [
        opener(OTHER),
        opener(),
        opener(KEY, request_id=new_id()),
        opener(KEY, direction="handover"),
    ],
    ids=["another key", "no key", "another request", "back to the sender"],
)
def test_a_message_opens_only_where_it_belongs(reader: Opener) -> None:
    """Another key, another request and the other direction open nothing."""
    assert reader.open(Sealer(KEY, ID, "answer").seal(b"{}")) is None
    assert reader.key is None


@given(st.binary(max_size=100))
def test_any_bytes_may_arrive(data: bytes) -> None:
    """Bytes that no sender sealed are refused without an exception."""
    assert opener(KEY, OTHER).open(data) is None
    assert opener(KEY, OTHER).open(b"\x01" + data) is None


def test_a_sender_costs_one_derived_key() -> None:
    """The keys are tried for the first message of each sender only, and few senders are remembered."""
    calls = count()

    def keys() -> Iterator[PoolKey]:
        next(calls)
        yield KEY

    reader = Opener(keys, ID, "answer")
    for _ in range(20):
        sealer = Sealer(KEY, ID, "answer")
        for _ in range(3):
            assert reader.open(sealer.seal(b"{}")) == b"{}"
    assert next(calls) == 20
    assert len(reader._senders) < 20


def test_the_length_of_a_short_message_does_not_show() -> None:
    """Deltas of one letter and of one long word have the same length when they are sealed."""
    sealer = Sealer(KEY, ID, "answer")
    assert len({len(sealer.seal(b'{"deltas":[{"text":"%b"}]}' % (b"x" * size))) for size in range(1, 30)}) == 1
