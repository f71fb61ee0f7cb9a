from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
from tests.unit.routing.watch.test_pool_health import WELL

from tokenlane.producer.dashboard.feed import Feed
from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.live import follow
from tokenlane.routing.watch.snapshot import Snapshot


async def test_each_outage_is_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """One line when the pool stops answering, at the start too, and one when it answers again."""
    caplog.set_level("INFO", "tokenlane.producer.dashboard")
    away = PoolUnavailable("No Redis server answers")
    replies: Iterator[Snapshot | Exception] = iter([away, away, WELL, WELL, away, WELL, MemoryError()])

    async def take_snapshot(_: Pool) -> Snapshot:
        reply = next(replies)
        if isinstance(reply, Exception):
            raise reply
        return reply

    monkeypatch.setattr(follow, "take_snapshot", take_snapshot)
    monkeypatch.setattr(follow, "_EVERY_S", 0)
    with pytest.raises(MemoryError):
        await Feed(cast("Pool", None)).run()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING", "INFO"]
    assert away.message in caplog.messages[0]
