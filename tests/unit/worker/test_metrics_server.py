"""The pages of a worker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import aiohttp

from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.metrics_server import WorkerHealth, serving_metrics


async def test_an_error_of_a_page_is_counted_with_those_of_the_lane() -> None:
    """The health counts it where the lane does, whose beats report the count."""

    def measured() -> Any:
        raise ValueError("SECRET")

    health = WorkerHealth(cast("Lane", SimpleNamespace(measured=measured)))
    async with (
        serving_metrics(health, "127.0.0.1:0", "main") as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/metrics") as answer,
    ):
        assert answer.status == 500
    assert health.internal_errors.count == 1


async def test_nothing_is_served_without_an_address() -> None:
    async with serving_metrics(WorkerHealth(), None, "main") as url:
        assert url == ""
