"""What `tokenlane failed redrive` reports if the pool refuses a request or does not answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tokenlane.producer.client import Client
from tokenlane.producer.commands.redrive import _redrive
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.errors import LlmError, PoolUnavailable, QueueFull
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.store.pool import Pool

FAILED = new_id()


def pool_with_payload(outage: LlmError | None = None) -> Pool:
    """A pool that keeps the failed request's payload. `outage`: the error of each deletion."""
    request = ChatRequest(id=FAILED, role="r", messages=[Message(role="user", content="q")])
    envelope = Envelope(id=FAILED, client="c", agent="a", role="r", key_id="k")

    async def kept_payload(_: str) -> tuple[Envelope, bytes]:
        return envelope, b"sealed"

    async def drop_failed(_: list[str]) -> None:
        if outage is not None:
            raise outage

    keychain = SimpleNamespace(has_key=lambda _: True, unseal=lambda *_: request.to_wire())
    records = SimpleNamespace(kept_payload=kept_payload, drop_failed=drop_failed)
    return cast("Pool", SimpleNamespace(keychain=keychain, records=records))


def client_refused_with(error: LlmError) -> Client:
    """A client whose requests the pool refuses with this error."""

    async def open_request(*_: object, **__: Any) -> None:
        raise error

    return cast("Client", SimpleNamespace(link=SimpleNamespace(client="c", open=open_request)))


@pytest.mark.parametrize("error", [QueueFull().at(request_id=new_id()), PoolUnavailable()], ids=["full", "away"])
async def test_a_request_that_is_not_accepted_has_no_new_id(error: LlmError) -> None:
    """Even if the error names the id under which it would have been sent."""
    outcome = await _redrive(client_refused_with(error), pool_with_payload(), FAILED, show_answer=False)
    assert (outcome.state, outcome.code, outcome.redriven_as) == ("failed", error.code, None)


async def test_the_report_outlives_an_outage() -> None:
    """If Redis goes away, the list of failed requests is not brought up to date, and the outcome is still reported."""
    pool = pool_with_payload(outage=PoolUnavailable())
    outcome = await _redrive(client_refused_with(PoolUnavailable()), pool, FAILED, show_answer=False)
    assert (outcome.request_id, outcome.code) == (FAILED, PoolUnavailable.code)
