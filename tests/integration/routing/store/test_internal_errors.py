"""Bugs in the background tasks of workers, routers and clients, put there by the tests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.exceptions import ResponseError
from tests.integration.clients import quick_client
from tests.workshop import FakeProvider

from tokenlane.config.settings.values import LaneSettings, RedisSettings
from tokenlane.producer import Client
from tokenlane.producer.link.redis.heartbeat import ClientHeartbeat
from tokenlane.producer.link.redis.worker_messages import WorkerMessages
from tokenlane.routing.commands.status import _summary
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.beats import Beats
from tokenlane.routing.store.hub import Hub
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.request_life import Requests
from tokenlane.routing.store.server.refusals import REFUSALS
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.worker.assembly import open_lane
from tokenlane.worker.lane.arq_worker import LaneWorker
from tokenlane.worker.lane.publisher import Publisher
from tokenlane.worker.run_and_drain import run_worker

SECRET = "words of a prompt"

STEPS: list[tuple[type, str]] = [
    (Beats, "renew"),
    (Beats, "sweep"),
    (Pool, "survey"),
    (Requests, "dispatch"),
    (Pool, "publish"),
    (Beats, "check"),
    (Hub, "_deliver_next"),
    (Hub, "_deliver"),
    (LaneWorker, "_poll_iteration"),
    (Publisher, "_collect"),
    (ClientHeartbeat, "_check_requests_until"),
    (WorkerMessages, "_batch"),
]


class Bug:
    """The step of a class fails the next times it is made, then does what it should."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, times: int) -> None:
        self.left = times
        right: Callable[..., Any] = getattr(owner, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            if self.left:
                self.left -= 1
                raise LookupError(SECRET)
            return right(*args, **kwargs)

        monkeypatch.setattr(owner, name, step)


@asynccontextmanager
async def working(url: str) -> AsyncIterator[None]:
    """A worker that routes, in this process."""
    ready, stopping = asyncio.Event(), asyncio.Event()

    async def is_ready(_: object) -> None:
        ready.set()

    settings = LaneSettings("lane1", "fake")
    lane = open_lane(settings, RedisSettings(url), provider=FakeProvider())
    serving = run_worker(lane, on_ready=is_ready, stopping=stopping)
    async with asyncio.TaskGroup() as tasks:
        worker = tasks.create_task(serving)
        await ready.wait()
        yield
        stopping.set()
        assert await worker == 0


@pytest.mark.parametrize(("owner", "name"), STEPS, ids=lambda it: it if isinstance(it, str) else it.__name__)
async def test_a_bug_in_a_background_task_ends_nothing(
    owner: type,
    name: str,
    pool: Pool,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever step fails, workers and clients go on, what is asked then is answered, and the errors are counted and
    logged without their texts."""
    await pool.policies.write(Policy(lease_ms=1000))
    async with working(redis_url), quick_client(redis_url, agent="agent1") as client:
        with caplog.at_level(logging.ERROR):
            bug = Bug(monkeypatch, owner, name, times=3)
            async with asyncio.timeout(40):
                while bug.left:
                    assert (await client.complete("hi", role="planner")).text == "abc"
                assert (await client.complete("hi", role="planner")).text == "abc"
        async with asyncio.timeout(20):
            while True:
                seen = await take_snapshot(pool)
                ((worker,),) = (lane.workers for lane in seen.lanes)
                if worker.report.internal_errors + client.internal_errors >= 3:
                    break
                await asyncio.sleep(0.05)
        assert "internal error" in caplog.text
        assert SECRET not in caplog.text
        assert (worker.name in _summary(seen)) == bool(worker.report.internal_errors)


async def test_a_bug_in_sending_a_request_ends_that_request_alone(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is told; other requests and the client go on."""
    async with working(redis_url), Client(redis_url, agent="agent1") as client:
        bug = Bug(monkeypatch, Requests, "submit", times=1)
        with pytest.raises(LookupError):
            await client.complete("hi", role="planner")
        assert bug.left == 0
        assert (await client.complete("hi", role="planner")).text == "abc"
        assert client.internal_errors == 1


async def test_a_workers_log_says_what_the_server_refuses(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the words of that refusal, which is no internal error; the worker goes on."""

    async def refused(_: LaneWorker) -> None:
        raise ResponseError("MISCONF Errors writing to the AOF file: No space left on device")

    monkeypatch.setattr(LaneWorker, "_read_queue", refused)
    with caplog.at_level(logging.WARNING):
        async with working(redis_url), Client(redis_url, agent="agent1") as client:
            async with asyncio.timeout(20):
                while not caplog.records:
                    await asyncio.sleep(0.02)
            assert (await client.complete("hi", role="planner")).text == "abc"
    assert all(REFUSALS["MISCONF"].text in record.getMessage() for record in caplog.records)
