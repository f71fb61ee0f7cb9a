"""Measures how soon a cancel frees the slot, in each state of a request, and what many cancels at once leave behind."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from pydantic import BaseModel, JsonValue
from redis.asyncio import Redis

from tokenlane.benches.simulator import Simulator
from tokenlane.config.host.embedded_server import EmbeddedServer
from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.producer import Client
from tokenlane.producer.stream import ChatStream
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.worker.providers.http.gather_or_cancel import gather_or_cancel

from .figures import Bar, Times, line_of
from .host.machine import describe_machine, describe_versions
from .worker_processes import router_process, worker_process

LIMIT_MS = 250.0
_ONE, _MANY = "one", "many"
"""The lane with one slot, whose next request shows that the slot is free, and the lane that runs many at once."""
_MANY_SLOTS = 64
_QUESTION, _NEXT_QUESTION = "Count.", "Count again."
_CLEAN_WITHIN_S = 10.0
_POLL_S = 0.001
_RESTING = re.compile(
    r"request:\w+|unwanted:\w+|rates:\d+|drain:\w+|swept|policy|sequence|key|failed|lanes|workers|routers|clients"
    r"|lane:\w+:(state|workers)|lane:\w+(:\w+)?:health-check|(worker|router):.+"
)
"""The keys that a pool has while nothing waits or runs."""


@dataclass(frozen=True)
class CancelPlan:
    """A whole measurement: cancels in each state, one after another, and then a number of cancels at once."""

    cancels: int
    at_once: int


FULL = CancelPlan(cancels=200, at_once=1000)
QUICK = CancelPlan(cancels=5, at_once=100)


class InState(BaseModel):
    """The time from a cancel until the slot is free, for requests that were in this state."""

    state: str
    free_ms: Times


class AtOnce(BaseModel):
    """Cancels at once: `free_ms` until new requests run in all slots.

    `running`: how many of the cancelled requests ran; the others waited. `left_behind`: the keys of the pool that
    should not be there afterwards, and requests that did not end as cancelled.
    """

    cancels: int
    running: int
    free_ms: float
    left_behind: list[str]


class CancelTimes(BaseModel):
    """The report of a whole measurement."""

    measured_at: str
    machine: str
    versions: str
    states: list[InState]
    at_once: AtOnce
    bars: list[Bar]


@dataclass(frozen=True)
class _Site:
    """A pool, its model server, and an agent."""

    redis: str
    pool: Pool
    server: Simulator
    client: Client

    def held(self, role: str, after: int, question: str = _QUESTION) -> ChatStream:
        """A chat whose answer stops after so many tokens."""
        script: dict[str, JsonValue] = {"hold_after": after}
        return self.client.chat(question, role=role, extra={"simulate": script})

    async def state(self, stream: ChatStream) -> str:
        """Return the state of a request in the pool."""
        (status,) = (await self.pool.beats.check("bench", [stream.request_id])).statuses
        return status.state

    async def until_state(self, stream: ChatStream, state: str) -> None:
        """Wait until the pool has a request in this state."""
        while await self.state(stream) != state:  # noqa: ASYNC110 - the state is in another process
            await asyncio.sleep(_POLL_S)


async def measure(plan: CancelPlan, progress: Callable[[str], None] = lambda line: None) -> CancelTimes:
    """Run the whole measurement.

    Args:
        progress: called with a line of text before each part.

    Raises:
        UserError: a worker or the embedded server did not start.
    """
    states = []
    async with _site() as site:
        async with worker_process(site.redis, _ONE, site.server, 1) as worker:
            freeze, thaw = (partial(worker.send_signal, number) for number in (signal.SIGSTOP, signal.SIGCONT))
            parts: dict[str, Callable[[], Awaitable[list[float]]]] = {
                "waiting": partial(_waiting, site, plan.cancels),
                "dispatched": partial(_dispatched, site, plan.cancels, freeze, thaw),
                "running, before the first token": partial(_running, site, plan.cancels, 0),
                "streaming": partial(_running, site, plan.cancels, 3),
            }
            for state, part in parts.items():
                progress(state)
                states.append(InState(state=state, free_ms=Times.of(await part())))
        progress(f"{plan.at_once} at once")
        async with worker_process(site.redis, _MANY, site.server, _MANY_SLOTS):
            at_once = await _at_once(site, plan.at_once)
    return CancelTimes(
        measured_at=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=describe_machine(),
        versions=describe_versions(),
        states=states,
        at_once=at_once,
        bars=[
            *(
                Bar(name=f"cancel to free slot, {at.state}, p99, in ms", measured=at.free_ms.p99, limit=LIMIT_MS)
                for at in states
            ),
            Bar(name=f"left behind by {plan.at_once} cancels at once", measured=len(at_once.left_behind), limit=0),
        ],
    )


@asynccontextmanager
async def _site() -> AsyncIterator[_Site]:
    roles = {lane: RolePolicy(route=(Candidate(lane=lane),)) for lane in (_ONE, _MANY)}
    async with (
        EmbeddedServer() as redis,
        Simulator(tokens=8, capacity=2 * _MANY_SLOTS) as server,
        connect(redis.url) as pool,
        router_process(redis.url),
    ):
        # Requests of lanes whose worker is not there yet, or frozen, wait.
        await pool.policies.write(Policy(roles=roles, lease_ms=60_000, start_lease_ms=60_000, patience_ms=60_000))
        async with Client(redis.url, key=KeyRing()) as client:
            yield _Site(redis.url, pool, server, client)


async def _waiting(site: _Site, cancels: int) -> list[float]:
    """Cancel requests that wait for the slot. They have none: the time is until the pool has cancelled the request."""
    times_ms = []
    async with site.held(_ONE, 0) as blocking:
        await site.until_state(blocking, "running")
        for _ in range(cancels):
            async with site.held(_ONE, 0) as stream:
                times_ms.append(await _time_ms(stream.cancel(), site.until_state(stream, "cancelled")))
    await site.until_state(blocking, "cancelled")  # its worker may be frozen next
    return times_ms


async def _dispatched(site: _Site, cancels: int, freeze: Callable[[], None], thaw: Callable[[], None]) -> list[float]:
    """Cancel requests that the lane has been given while its worker is frozen, so that it does not start them."""
    times_ms = []
    freeze()
    try:
        for _ in range(cancels):
            async with site.held(_ONE, 0) as stream:
                await site.until_state(stream, "dispatched")
                async with site.held(_ONE, 0) as following:
                    times_ms.append(await _time_ms(stream.cancel(), site.until_state(following, "dispatched")))
                    await following.cancel()
    finally:
        thaw()
    return times_ms


async def _running(site: _Site, cancels: int, tokens: int) -> list[float]:
    """Cancel requests that have streamed so many tokens. The slot is free when the model server gets the next one."""
    times_ms = []
    for _ in range(cancels):
        async with site.held(_ONE, tokens) as stream:
            await site.server.wait_for(lambda: _held(site.server, _QUESTION) == 1)
            for _ in range(tokens):
                await anext(stream)
            async with site.client.chat(_NEXT_QUESTION, role=_ONE) as following:
                next_arrived = partial(_has_received, site.server, site.server.log[-1].index + 1)
                times_ms.append(await _time_ms(stream.cancel(), site.server.wait_for(next_arrived)))
                await following.answer()
    return times_ms


def _has_received(server: Simulator, index: int) -> bool:
    return server.log[-1].index >= index


async def _time_ms(cancel: Awaitable[None], free: Awaitable[None]) -> float:
    """Cancel, and return the time until the slot is free."""
    begun_s = time.monotonic()

    async def until(done: Awaitable[None]) -> float:
        await done
        return 1000 * (time.monotonic() - begun_s)

    _, free_ms = await gather_or_cancel(until(cancel), until(free))
    return free_ms


async def _at_once(site: _Site, cancels: int) -> AtOnce:
    """Cancel requests at once of which the lane runs as many as it can, half of them after their first tokens."""
    async with Client(site.redis, key=KeyRing()) as client, AsyncExitStack() as stack:
        site = replace(site, client=client)
        streams = [site.held(_MANY, 3 * (number % 2)) for number in range(cancels)]
        await gather_or_cancel(*map(stack.enter_async_context, streams))
        running = min(cancels, _MANY_SLOTS)
        await site.server.wait_for(lambda: _held(site.server, _QUESTION) == running)
        free_ms = await _time_ms(_cancel_all(streams), _fill_all_slots(site))
    left_behind = await _left_behind(site, [stream.request_id for stream in streams])
    return AtOnce(cancels=cancels, running=running, free_ms=free_ms, left_behind=left_behind)


def _held(server: Simulator, question: str) -> int:
    """How many answers to a question the server holds."""
    asked = question.encode()
    return sum(received.held and received.ended is None and asked in received.body for received in server.log)


async def _cancel_all(streams: Sequence[ChatStream]) -> None:
    await gather_or_cancel(*(stream.cancel() for stream in streams))


async def _fill_all_slots(site: _Site) -> None:
    """Submit as many requests as the lane has slots, and wait until all of them run."""
    async with AsyncExitStack() as stack:
        streams = [site.held(_MANY, 0, _NEXT_QUESTION) for _ in range(_MANY_SLOTS)]
        await gather_or_cancel(*map(stack.enter_async_context, streams))
        await site.server.wait_for(lambda: _held(site.server, _NEXT_QUESTION) == _MANY_SLOTS, _CLEAN_WITHIN_S)


async def _left_behind(site: _Site, cancelled: Sequence[str]) -> list[str]:
    """Return the keys that a resting pool does not have, and the cancelled requests that ended otherwise, as soon as
    there are none, or after some seconds."""
    left: list[str] = []
    async with Redis.from_url(site.redis, decode_responses=True) as redis:
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLEAN_WITHIN_S):
                while True:
                    prefix = site.pool.keys.prefix
                    keys = [key async for key in redis.scan_iter(count=10_000)]
                    left = [key for key in keys if not _RESTING.fullmatch(key.removeprefix(prefix))]
                    for request_id in cancelled:
                        state = await redis.hget(f"{prefix}request:{request_id}", "state")
                        left += [] if state == "cancelled" else [f"request:{request_id} is {state}"]
                    if not left and site.server.running == 0:
                        break
                    await asyncio.sleep(0.05)
    return left + ["an answer of the model server"] * site.server.running


def table(report: CancelTimes) -> str:
    """Return the report as Markdown, for benches/README.md."""
    at_once = report.at_once
    lines = [
        f"{report.measured_at}, {report.machine}; {report.versions}.",
        "",
        "| state | cancels | free slot p50, ms | p99, ms |",
        "|---|--:|--:|--:|",
        *(
            f"| {at.state} | {at.free_ms.samples} | {at.free_ms.p50:.1f} | {at.free_ms.p99:.1f} |"
            for at in report.states
        ),
        "",
        f"{at_once.cancels} cancels at once, {at_once.running} of them of running requests: all slots run new requests "
        f"after {at_once.free_ms:.0f} ms.",
        "",
        *(f"- left behind: {left}" for left in at_once.left_behind[:20]),
    ]
    return "\n".join([*lines, *map(line_of, report.bars)])
