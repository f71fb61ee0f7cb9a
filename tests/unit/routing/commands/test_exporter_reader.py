"""How the exporter reads a pool that answers slowly, or not at all."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import cast

import pytest
from aiohttp import web
from tests.unit.routing.watch.test_pool_health import WELL

from tokenlane.routing.commands import exporter
from tokenlane.routing.commands.exporter import _Reader
from tokenlane.routing.store.access.api_key import QuotaUse
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.support.tasks import InternalErrors
from tokenlane.routing.watch.snapshot import Snapshot


@dataclass
class Slow:
    """A pool that answers when `answers` is set. `asked`: how often it was asked."""

    asked: int = 0
    began: asyncio.Event = field(default_factory=asyncio.Event)
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    internal_errors: InternalErrors = field(default_factory=InternalErrors)

    async def take_snapshot(self, _: Pool) -> Snapshot:
        self.asked += 1
        self.began.set()
        await self.answers.wait()
        return WELL


@pytest.fixture(autouse=True)
def without_quotas(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool has no API keys."""

    async def read_quotas(_: Pool) -> tuple[QuotaUse, ...]:
        return ()

    monkeypatch.setattr(exporter, "_read_quotas", read_quotas)


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
        assert await reader.read() == [("tokenlane_up", (), 0), ("tokenlane_exporter_errors_total", (), 0)]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    pool.answers.set()
    assert ("tokenlane_up", (), 1) in await reader.read()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_a_bug_is_logged_and_counted_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Even if the scrape that began the read has gone away. The next scrape that succeeds has the count."""
    pool, in_callbacks = Slow(), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: in_callbacks.append(context))

    async def fail(_: Pool) -> Snapshot:
        await pool.take_snapshot(_)
        raise ZeroDivisionError

    monkeypatch.setattr(exporter, "take_snapshot", fail)
    reader = _Reader(cast("Pool", pool))
    gone = asyncio.create_task(reader.read())
    await pool.began.wait()
    gone.cancel()
    await asyncio.wait({gone})
    waiting = asyncio.create_task(reader.read())
    pool.answers.set()
    with pytest.raises(web.HTTPInternalServerError):
        await waiting
    assert (pool.asked, pool.internal_errors.count) == (1, 1)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    monkeypatch.setattr(exporter, "take_snapshot", pool.take_snapshot)
    assert ("tokenlane_exporter_errors_total", (), 1) in await reader.read()
    assert in_callbacks == []
