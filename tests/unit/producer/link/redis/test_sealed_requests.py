"""Which messages a client accepts in a pool with a key, and how it seals its handovers."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tokenlane.config.host.pool_key_files import KeyRing, PoolKey, write_key_file
from tokenlane.producer.link.redis.sealed_requests import SealedRequests
from tokenlane.routing.contract.answers import TokenDelta, Usage
from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.contract.messages import (
    Attached,
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
from tokenlane.routing.contract.results import Progress
from tokenlane.routing.contract.sealing.messages import Opener, Sealer, split_address
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.store.keychain import Keychain

ID = new_id()
KEY, NEXT = PoolKey.new(), PoolKey.new()
DELTAS = Deltas(attempt=1, worker="w", lane="l", model="m", first=0, deltas=[TokenDelta(text="marked")])
ERROR, TOO_MUCH = BadRequest("no lane").report(), BadRequest("no lane", detail="marked").report()
FAILED = Failed(attempt=1, error=ERROR)


def sealed_requests(*keys: PoolKey) -> SealedRequests:
    return SealedRequests(Keychain(KeyRing(keys), "pool 'main'"))


def sealed(message: ChannelMessage, key: PoolKey = KEY) -> bytes:
    return Sealer(key, ID, "answer").seal(message.to_wire())


@pytest.mark.parametrize(
    ("message", "is_accepted"),
    [
        (DELTAS, False),
        (Resume(attempt=1, worker="w"), False),
        (Progressed(attempt=1, worker="w", lane="l", progress=Progress(step="s")), False),
        (Completed(attempt=1, worker="w", lane="l", model="m", first=0, end=0, usage=Usage()), False),
        (Failed(attempt=1, error=ERROR, deltas=[TokenDelta(text="marked")]), False),
        (Failed(attempt=1, error=TOO_MUCH), False),
        (FAILED, True),
        (Cancelled(attempt=1), True),
        (Expired(attempt=1), True),
        (Attached(attempt=1, client="c"), True),
    ],
    ids=lambda value: getattr(value, "type", value),
)
def test_only_scripts_and_routers_send_plain_messages(message: ChannelMessage, is_accepted: bool) -> None:
    """With a key, a plain message of a worker is dropped; sealed, every message is accepted. Without a key, all are."""
    requests = sealed_requests(KEY)
    assert (requests.open(ID, message.to_wire()) == message.to_wire()) == is_accepted
    assert requests.dropped == (not is_accepted)
    assert requests.open(ID, sealed(message)) == message.to_wire()
    assert sealed_requests().open(ID, message.to_wire()) == message.to_wire()


def test_a_message_that_does_not_open_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """Such messages are counted; one warning for each request names the request and quotes nothing."""
    requests = sealed_requests(KEY)
    with caplog.at_level(logging.WARNING):
        for data in (sealed(DELTAS, NEXT), sealed(DELTAS)[:-1], b"", b"marked"):
            assert requests.open(ID, data) is None
    (record,) = caplog.records
    assert requests.dropped == 4
    assert ID in record.getMessage()
    assert "marked" not in record.getMessage()


def test_a_new_key_is_read_from_the_key_file(tmp_path: Path) -> None:
    """A message under a key that the key file has by now is opened."""
    file = tmp_path / "pool.key"
    requests = SealedRequests(Keychain(write_key_file(file, [KEY]), "pool 'main'"))
    write_key_file(file, [NEXT, KEY])
    assert requests.open(ID, sealed(DELTAS, NEXT)) == DELTAS.to_wire()
    assert requests.dropped == 0


@pytest.mark.parametrize("key", [KEY, NEXT])
def test_a_handover_is_sealed_as_the_question_was(key: PoolKey) -> None:
    """A worker can open the handover with the key of its own messages; a replay request stays plain."""
    requests = sealed_requests(NEXT, KEY)
    assert requests.open(ID, sealed(Resume(attempt=2, worker="w"), key)) is not None
    handover, replay = Handover(id=ID, attempt=2, text="marked"), Replay(id=ID, attempt=2, after=0)
    first, second = requests.seal(handover), requests.seal(handover)
    assert first != second
    opener = Opener(lambda: (key,), ID, "handover")
    for data in (first, second):
        assert data is not None
        request_id, frame = split_address(data)
        assert (request_id, opener.open(frame)) == (ID, handover.to_wire())
    assert requests.seal(replay) == replay.to_wire()


def test_without_a_key_nothing_is_sealed() -> None:
    """A pool without a key has plain handovers."""
    handover = Handover(id=ID, attempt=2, text="marked")
    assert sealed_requests().seal(handover) == handover.to_wire()
