from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from typing import cast

import pytest
from redis import exceptions as redis_errors
from tests.unit.routing.watch.test_pool_health import WELL

from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.live import follow as following
from tokenlane.routing.watch.snapshot import Snapshot


def _unavailable(message: str, cause: redis_errors.RedisError) -> PoolUnavailable:
    error = PoolUnavailable(message)
    error.__cause__ = cause
    return error


AWAY = _unavailable("No Redis server answers", redis_errors.ConnectionError())
REFUSED = _unavailable("The Redis server does not let user 'ops' run evalsha", redis_errors.NoPermissionError())


async def test_outages_and_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a pool that answered and then does not answer is silent since a time; a refusal is named as one. The newest
    view stays."""
    replies: Iterator[Snapshot | PoolUnavailable] = iter([AWAY, WELL, AWAY, REFUSED, WELL])

    async def take_snapshot(pool: Pool) -> Snapshot:
        reply = next(replies)
        if isinstance(reply, PoolUnavailable):
            raise reply
        return reply

    monkeypatch.setattr(following, "take_snapshot", take_snapshot)
    monkeypatch.setattr(following, "_EVERY_S", 0)
    async with aclosing(following.follow(cast("Pool", None))) as looks:
        first, seen, away, refused, again = [await anext(looks) for _ in range(5)]
    assert (first.view, first.outage) == (None, "No Redis server answers.")
    assert seen.view is not None
    assert (seen.outage, again.outage) == ("", "")
    assert "has not answered for" in away.outage
    assert refused.outage == "The Redis server does not let user 'ops' run evalsha."
    assert away.view == refused.view == seen.view
