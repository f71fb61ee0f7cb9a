"""The faults of a plan, each of which ends with everything in order again, except for what clients must repair."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

from tests.faults.plan import LANES, Fault, Plan
from tests.faults.stack import Place, Stack, until_answered
from tests.faults.tcp_proxy import TcpProxy
from tests.integration.farm import Child

from tokenlane.benches.simulator.fault_script import FaultScript

__all__ = ["carry_out"]


async def carry_out(plan: Plan, stack: Stack, record: Callable[[str], None]) -> None:
    """Have all faults of the plan happen, each at its time, and return when all are over."""

    async def happen(fault: Fault) -> None:
        await asyncio.sleep(fault.after_s)
        record(f"fault begins: {fault}")
        await FAULTS[fault.name](stack, fault)
        record(f"fault ends: {fault.name}")

    async with asyncio.TaskGroup() as tasks:
        for fault in plan.faults:
            tasks.create_task(happen(fault))


def _place(stack: Stack, fault: Fault) -> Place:
    return stack.places[fault.place % len(stack.places)]


def _redis_proxy(stack: Stack, fault: Fault) -> TcpProxy:
    return stack.proxies[fault.place % len(stack.proxies)]


async def _kill_worker(stack: Stack, fault: Fault) -> None:
    place = _place(stack, fault)
    async with place.lock:
        await place.replace(Child.kill, deaf=False)


async def _stop_worker(stack: Stack, fault: Fault) -> None:
    place = _place(stack, fault)
    async with place.lock:
        await place.replace(ended_in_order, deaf=False)


async def _drop_doorbells(stack: Stack, fault: Fault) -> None:
    place = _place(stack, fault)
    async with place.lock:
        await place.replace(ended_in_order, deaf=True)


async def _rolling_restart(stack: Stack, fault: Fault) -> None:
    """Every worker is restarted, those of a lane one after another."""

    async def restart(lane: str) -> None:
        for place in stack.places:
            if place.lane == lane:
                async with place.lock:
                    await place.replace(ended_in_order, deaf=False)

    await asyncio.gather(*map(restart, LANES))


async def ended_in_order(child: Child) -> None:
    """Stop a worker, which must end with code 0."""
    ended = await child.end()
    assert ended.code == 0, ended


async def _freeze_worker(stack: Stack, fault: Fault) -> None:
    place = _place(stack, fault)
    async with place.lock:
        await _freeze(place.child, fault)


async def _freeze_agent(stack: Stack, fault: Fault) -> None:
    agent = stack.agents[fault.place % len(stack.agents)]
    async with agent.lock:
        await _freeze(agent.child, fault)


async def _kill_agent(stack: Stack, fault: Fault) -> None:
    agent = stack.agents[fault.place % len(stack.agents)]
    async with agent.lock:
        await agent.kill()


async def _freeze_router(stack: Stack, fault: Fault) -> None:
    async with stack.router_lock:
        await _freeze(stack.router, fault)


async def _kill_router(stack: Stack, fault: Fault) -> None:
    async with stack.router_lock:
        await stack.router.kill()
        await asyncio.sleep(fault.for_s)
        await stack.start_router()


async def _freeze(child: Child, fault: Fault) -> None:
    child.freeze()
    try:
        await asyncio.sleep(fault.for_s)
    finally:
        child.thaw()


async def _cut_model_server(stack: Stack, fault: Fault) -> None:
    _place(stack, fault).server.cut()


async def _reset_model_server(stack: Stack, fault: Fault) -> None:
    _place(stack, fault).server.reset()


async def _half_open_model_server(stack: Stack, fault: Fault) -> None:
    await _place(stack, fault).server.half_open(fault.for_s)


async def _delay_model_server(stack: Stack, fault: Fault) -> None:
    await _place(stack, fault).server.delay(fault.for_s)


async def _refuse_model_server(stack: Stack, fault: Fault) -> None:
    await _place(stack, fault).server.refuse(fault.for_s)


async def _fail_model_server(stack: Stack, fault: Fault) -> None:
    """The model server fails its next chats, each after some tokens or before the first."""
    after = fault.place % 12
    script = (
        FaultScript(status=503),
        FaultScript(status=500),
        FaultScript(status=429, retry_after="1"),
        FaultScript(drop=True),
        FaultScript(cut_after=after),
        FaultScript(error_after=after),
        FaultScript(no_end=True),
        FaultScript(stall_after=after, stall_ms=1000 * fault.for_s),
    )[fault.which % 8]
    server = _place(stack, fault).model_server
    server.scripts.extend([script] * (1 + fault.place % 3))


async def _cut_redis(stack: Stack, fault: Fault) -> None:
    _redis_proxy(stack, fault).cut()


async def _reset_redis(stack: Stack, fault: Fault) -> None:
    _redis_proxy(stack, fault).reset()


async def _half_open_redis(stack: Stack, fault: Fault) -> None:
    await _redis_proxy(stack, fault).half_open(fault.for_s)


async def _delay_redis(stack: Stack, fault: Fault) -> None:
    await _redis_proxy(stack, fault).delay(fault.for_s)


async def _stall_redis(stack: Stack, fault: Fault) -> None:
    await _redis_proxy(stack, fault).stall(fault.for_s)


async def _refuse_redis(stack: Stack, fault: Fault) -> None:
    await _redis_proxy(stack, fault).refuse(fault.for_s)


async def _restart_redis(stack: Stack, fault: Fault) -> None:
    async with stack.server_lock:
        await stack.server.kill()
        await asyncio.sleep(fault.for_s)
        await stack.server.start()


async def _wipe_redis(stack: Stack, fault: Fault) -> None:
    async with stack.server_lock:
        await stack.wipe()


async def _freeze_redis(stack: Stack, fault: Fault) -> None:
    async with stack.server_lock:
        stack.server.freeze()
        try:
            await asyncio.sleep(fault.for_s)
        finally:
            stack.server.thaw()


async def _fill_redis(stack: Stack, fault: Fault) -> None:
    async with stack.server_lock:
        await stack.server.ask("CONFIG", "SET", "maxmemory", "1")
        try:
            await asyncio.sleep(fault.for_s)
        finally:
            with suppress(ConnectionError):
                await stack.server.ask("CONFIG", "SET", "maxmemory", "0")


async def _drain_lane(stack: Stack, fault: Fault) -> None:
    lane = _place(stack, fault).lane
    await until_answered(lambda: stack.pool.drain_lane(lane))
    try:
        await asyncio.sleep(fault.for_s)
    finally:
        await until_answered(lambda: stack.pool.resume_lane(lane))


async def _purge_role(stack: Stack, fault: Fault) -> None:
    async def purge() -> None:
        live = await stack.pool.records.live()
        await stack.pool.requests.purge([record.id for record in live if record.role == fault.role])

    await until_answered(purge)


FAULTS: Final[Mapping[str, Callable[[Stack, Fault], Awaitable[None]]]] = {
    "kill_worker": _kill_worker,
    "freeze_worker": _freeze_worker,
    "stop_worker": _stop_worker,
    "cut_model_server": _cut_model_server,
    "reset_model_server": _reset_model_server,
    "half_open_model_server": _half_open_model_server,
    "delay_model_server": _delay_model_server,
    "refuse_model_server": _refuse_model_server,
    "fail_model_server": _fail_model_server,
    "cut_redis": _cut_redis,
    "reset_redis": _reset_redis,
    "half_open_redis": _half_open_redis,
    "delay_redis": _delay_redis,
    "stall_redis": _stall_redis,
    "refuse_redis": _refuse_redis,
    "restart_redis": _restart_redis,
    "wipe_redis": _wipe_redis,
    "freeze_redis": _freeze_redis,
    "fill_redis": _fill_redis,
    "drop_doorbells": _drop_doorbells,
    "freeze_agent": _freeze_agent,
    "kill_agent": _kill_agent,
    "freeze_router": _freeze_router,
    "kill_router": _kill_router,
    "rolling_restart": _rolling_restart,
    "drain_lane": _drain_lane,
    "purge_role": _purge_role,
}
