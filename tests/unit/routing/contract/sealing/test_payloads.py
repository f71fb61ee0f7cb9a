"""What sealing promises of one payload."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.config.host.pool_key_files import PoolKey
from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.contract.sealing.payloads import fingerprint, seal, unseal
from tokenlane.routing.contract.wire import new_id

KEY = PoolKey.new()


@given(st.binary(max_size=2000))
def test_what_is_sealed_opens(payload: bytes) -> None:
    """The worker gets what the agent wrote; two seals of the same are not alike, and neither shows it."""
    request_id = new_id()
    sealed = seal(payload, request_id, KEY)
    assert unseal(sealed, request_id, KEY) == payload
    assert sealed != seal(payload, request_id, KEY)
    assert len(payload) < 4 or payload not in sealed


@pytest.mark.parametrize("place", [0, 1, 12, 13, 20, -1])
def test_what_was_changed_does_not_open(place: int) -> None:
    """One flipped bit, wherever, is an error that quotes nothing."""
    request_id = new_id()
    sealed = bytearray(seal(b"marked-prompt", request_id, KEY))
    sealed[place] ^= 1
    with pytest.raises(BadRequest) as refused:
        unseal(bytes(sealed), request_id, KEY)
    assert "marked" not in f"{refused.value!r} {refused.value.__cause__!r}"


def test_what_was_cut_short_does_not_open() -> None:
    """Every beginning of a sealed payload is refused, and so is nothing."""
    request_id = new_id()
    sealed = seal(b"hi", request_id, KEY)
    for length in range(len(sealed)):
        with pytest.raises(BadRequest):
            unseal(sealed[:length], request_id, KEY)


def test_another_request_or_key_does_not_open() -> None:
    """A payload belongs to one request and one key."""
    request_id = new_id()
    sealed = seal(b"hi", request_id, KEY)
    with pytest.raises(BadRequest):
        unseal(sealed, new_id(), KEY)
    with pytest.raises(BadRequest):
        unseal(sealed, request_id, PoolKey.new())


def test_a_fingerprint_is_known_again_under_its_key_alone() -> None:
    """The same text has the same fingerprint under one key, and another one under another or none."""
    keys = (PoolKey.new(), PoolKey.new(), None)
    assert len({fingerprint("order 7", key) for key in keys}) == 3
    assert fingerprint("order 7", keys[0]) == fingerprint("order 7", keys[0]) != fingerprint("order 8", keys[0])
