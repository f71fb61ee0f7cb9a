"""Follows a pool: takes a snapshot every second, and says so while the pool does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace

from tokenlane.config.cli.sentences import age, sentence
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.request_records import RequestRecord
from tokenlane.routing.store.server.errors import is_unreachable
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.request_report import RequestReport, report
from tokenlane.routing.watch.snapshot import Snapshot

from .trends import Trends
from .view import LiveView, live_view

_EVERY_S = 1.0
_REQUESTS_SHOWN = 100
_FAILED_SHOWN = 20


@dataclass(frozen=True)
class Requests:
    """Some requests of a pool: those that have not ended, the oldest first, and those that failed, the newest first.

    `is_complete`: whether no more requests live than `live` has. Otherwise it has those with the nearest deadlines.
    """

    live: tuple[RequestReport, ...]
    failed: tuple[RequestRecord, ...]
    is_complete: bool


@dataclass(frozen=True)
class Look:
    """The newest view, None before the first one. `requests`: None unless they were asked for. `outage`: why the
    view is old; empty if it is not."""

    view: LiveView | None = None
    requests: Requests | None = None
    outage: str = ""


async def follow(pool: Pool, with_requests: Callable[[], bool] = lambda: False) -> AsyncGenerator[Look, None]:
    """Look at the pool once a second, for as long as the caller asks.

    Args:
        with_requests: called before each look; whether to read requests too.
    """
    clock = asyncio.get_running_loop().time
    trends, look, answered_at = Trends(), Look(), 0.0
    while True:
        began = clock()
        try:
            snapshot = await take_snapshot(pool)
            requests = await _requests(pool, snapshot) if with_requests() else None
        except LlmError as error:
            since = ""
            if look.view is not None and is_unreachable(error):
                since = f"The pool has not answered for {age(round(1000 * (clock() - answered_at)))}. "
            yield replace(look, outage=f"{since}{sentence(error.message)}")
        else:
            trends.add(snapshot)
            view = await asyncio.to_thread(live_view, snapshot, trends)  # thousands of roles take a while
            look, answered_at = Look(view, requests), clock()
            yield look
        await asyncio.sleep(max(0.0, began + _EVERY_S - clock()))


async def _requests(pool: Pool, snapshot: Snapshot) -> Requests:
    live = await pool.records.live(_REQUESTS_SHOWN)
    failed = await pool.records.newest_failed(_FAILED_SHOWN)
    waiting_or_running = (record for record in live if record.ended_ms is None)
    reports = tuple(report(snapshot, record) for record in waiting_or_running)
    return Requests(reports, failed, is_complete=len(live) < _REQUESTS_SHOWN)
