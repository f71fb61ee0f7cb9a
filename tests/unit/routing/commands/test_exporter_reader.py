"""How the exporter reads a pool that answers slowly, or not at all."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from tests.unit.routing.watch.test_pool_health import WELL

from tokenlane.routing.commands import exporter
from tokenlane.routing.commands.exporter import _Reader
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.snapshot import Snapshot


class Slow:
    """A pool that answers when `answers` is set. `asked`: how often it was asked."""

    def __init__(self) -> None:
        self.asked, self.began, self.answers = 0, asyncio.Event(), asyncio.Event()

    async def take_snapshot(self, _: Pool) -> Snapshot:
        self.asked += 1
        self.began.set()
        await self.answers.wait()
        return WELL


async def test_scrapes_at_once_share_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the scrape that began the read goes away; the next scrape reads anew."""
    pool = Slow()
    monkeypatch.setattr(exporter, "take_snapshot", pool.take_snapshot)
    reader = _Reader(cast("Pool", pool))
    first, second = asyncio.create_task(reader.read()), asyncio.create_task(reader.read())
    await pool.began.wait()
    first.cancel()
    pool.answers.set()
    assert ("tokenlane_up", (), 1) in await second
    assert first.cancelled()
    assert pool.asked == 1
    assert ("tokenlane_up", (), 1) in await reader.read()
    assert pool.asked == 2


async def test_a_pool_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Its scrapes say so in time, and the log says so once; one more line says that it answers again."""
    caplog.set_level("INFO")
    pool = Slow()
    monkeypatch.setattr(exporter, "take_snapshot", pool.take_snapshot)
    monkeypatch.setattr(exporter, "_READ_S", 0.01)
    reader = _Reader(cast("Pool", pool))
    for _ in range(3):
        assert await reader.read() == [("tokenlane_up", (), 0)]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    pool.answers.set()
    assert ("tokenlane_up", (), 1) in await reader.read()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
