"""One thing goes wrong at a time, at a moment that is known."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import JsonValue
from tests.faults.history import Accepted, Event, check_history
from tests.faults.scenario import CAPACITY, POLICY, Site, ask, settled, site
from tests.faults.tcp_proxy import tcp_proxy
from tests.integration.farm import Server, eventually
from tests.integration.life import PREFIX, audit, raw, state_of
from tests.redis_servers import every_server
from tests.repository import ROOT
from tests.waiting import until
from tests.workshop import FakeProvider

from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.exit_codes import OK
from tokenlane.config.settings.values import LaneSettings, RedisSettings
from tokenlane.producer import Client, Interrupted, LlmError, QueueFull
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.store.server import Timings
from tokenlane.routing.support.tasks import background
from tokenlane.worker.assembly import open_lane
from tokenlane.worker.attempt.pipeline import run_request
from tokenlane.worker.lane.arq_worker import LaneWorker
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.run_and_drain import run_worker

TEXT = "".join(f"w{number} " for number in range(16))


async def test_redis_dies_as_a_worker_starts(tmp_path: Path) -> None:
    """A worker whose lane is open outlives a server that dies before it first looks at its queue."""
    lane_settings = LaneSettings("gpu0", "fake", endpoint="http://gpu0")
    async with (
        Server(tmp_path) as server,
        open_lane(lane_settings, RedisSettings(server.url), provider=FakeProvider()) as lane,
        background() as tasks,
    ):
        await server.kill()
        worker = LaneWorker(lane, run_request)
        task = tasks.create_task(worker.main())
        await until(lambda: worker._failing or task.done())
        assert not task.done()
        await server.start()
        await until(lambda: not worker._failing)
        await asyncio.sleep(0)
        assert not task.done()


@pytest.mark.parametrize("when", ["starting", "idle", "answering"])
async def test_a_worker_ends_while_redis_is_frozen(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says nothing any more keeps no worker from stopping, whatever it was about to do there."""
    every_server(monkeypatch, timings=Timings(command_s=0.3))
    provider, stopping = FakeProvider(hold_after=1), asyncio.Event()
    ready: asyncio.Queue[Lane] = asyncio.Queue()
    async with Server(tmp_path) as server, background() as tasks:
        serving = asyncio.create_task(
            run_worker(
                open_lane(LaneSettings("gpu0", "fake"), RedisSettings(server.url), provider=provider),
                drain_s=0.1,
                on_ready=ready.put,
                stopping=stopping,
            )
        )
        lane = await ready.get()
        async with Client(server.url) as client:
            if when == "answering":
                tasks.create_task(_broken_off(client))
                await until(lambda: provider.holding == 1)
            if when == "idle":
                await lane.pool.survey()
            server.freeze()
            stopping.set()
            try:
                async with asyncio.timeout(20):
                    assert await serving == OK
            finally:
                server.thaw()


async def test_a_worker_that_stops_waits_for_an_agent_that_missed_the_end(tmp_path: Path) -> None:
    """An agent is cut off while its answer ends and the worker shuts down. It connects again, and gets the end."""
    provider, stopping = FakeProvider(hold_after=1), asyncio.Event()
    ready: asyncio.Queue[Lane] = asyncio.Queue()
    async with Server(tmp_path) as server, tcp_proxy(server.port) as proxy, background() as tasks:
        opening = open_lane(LaneSettings("gpu0", "fake"), RedisSettings(server.url), provider=provider)
        serving = asyncio.create_task(run_worker(opening, on_ready=ready.put, stopping=stopping))
        lane = await ready.get()
        async with Client(f"redis://127.0.0.1:{proxy.port}/0") as client:
            answer = asyncio.create_task(client.complete("hi", role="planner"))
            await until(lambda: provider.holding == 1)
            tasks.create_task(proxy.refuse(1))
            provider.go.set()
            await until(lambda: provider.running == 0 and not len(lane.runs))
            stopping.set()
            assert (await answer).text == "".join(provider.pieces)
            assert await serving == OK


async def test_a_worker_dies_with_the_end_of_an_answer(tmp_path: Path) -> None:
    """An agent is cut off while its answer ends. When it connects again, the worker that had the end is dead. Another
    lane continues the answer after the part that the agent has."""
    async with (
        site(tmp_path, lanes=("gpu0", "gpu1"), provider="llamacpp") as town,
        tcp_proxy(town.server.port) as proxy,
        connect(town.server.url) as pool,
        background() as tasks,
        Client(f"redis://127.0.0.1:{proxy.port}/0") as client,
    ):
        town.backends["gpu0"].faults.append(FaultScript(hold_after=5))
        async with client.chat("hi", role="planner") as stream:
            got = [await anext(stream) for _ in range(5)]

            async def is_completed() -> bool:
                return await state_of(pool, stream.request_id) == "completed"

            away = tasks.create_task(proxy.refuse(60))
            await until(lambda: proxy.connections == 0)
            town.backends["gpu0"].release()
            await eventually(is_completed)
            (child,) = [child for child, lane in town.workers.items() if lane == "gpu0"]
            del town.workers[child]
            await child.kill()
            away.cancel()
            got += [delta async for delta in stream]
            answer = await stream.answer()
        assert (answer.text, answer.lane) == (TEXT, "gpu1")
        assert "".join(delta.text for delta in got) == TEXT
        assert [delta.position for delta in got] == [*range(len(got))]
        assert [received.prefill for received in town.backends["gpu1"].log if received.sent] == ["w0 w1 w2 w3 w4"]
        assert await audit(raw(pool)) == {stream.request_id: "completed"}


async def _broken_off(client: Client) -> None:
    with suppress(LlmError):
        await client.complete("hi", role="planner")


def extra(**script: int) -> dict[str, JsonValue]:
    """What the simulator is to do."""
    return {"simulate": {**script}}


async def worker_of(pool: Pool, request_id: str) -> str:
    """The worker that runs a request."""
    (status,) = (await pool.beats.check("nobody", [request_id])).statuses
    return status.worker


async def kill_who_runs(town: Site, request_id: str) -> None:
    """Kill the worker that runs a request."""
    async with connect(town.server.url) as pool:
        name = await worker_of(pool, request_id)
    (child,) = [child for child in town.workers if child.name == name]
    del town.workers[child]
    await child.kill()


@pytest.mark.parametrize("lanes", [("gpu0", "gpu0"), ("gpu0", "gpu1")])
async def test_a_worker_killed_before_the_first_token(lanes: tuple[str, ...], tmp_path: Path) -> None:
    """Its request is run anew by the lane's other worker, or by the next lane of the route, and is whole."""
    async with site(tmp_path, lanes=lanes) as town, Client(town.server.url) as client:
        town.backends["gpu0"].faults.append(FaultScript(hold_after=0))
        async with client.chat("hi", role="planner") as stream:
            await town.backends["gpu0"].held()
            await kill_who_runs(town, stream.request_id)
            answer = await stream.answer()
        assert (answer.text, answer.usage.attempts, answer.lane) == (TEXT, 2, lanes[1])
        await town.backends["gpu0"].wait_for(lambda: town.backends["gpu0"].log[0].ended == "disconnected")


@pytest.mark.parametrize("lanes", [("gpu0", "gpu0"), ("gpu0", "gpu1")])
async def test_a_worker_killed_in_the_middle_of_an_answer(lanes: tuple[str, ...], tmp_path: Path) -> None:
    """The lane's other worker, or the next lane of the route, continues the answer: the text has no gap and no repeat,
    and no lane is in the list of failures."""
    async with site(tmp_path, lanes=lanes, provider="llamacpp") as town, Client(town.server.url) as client:
        town.backends["gpu0"].faults.append(FaultScript(hold_after=5))
        async with client.chat("hi", role="planner") as stream:
            deltas = [await anext(stream) for _ in range(5)]
            await kill_who_runs(town, stream.request_id)
            deltas += [delta async for delta in stream]
            answer = await stream.answer()
        assert (answer.text, answer.usage.attempts, answer.lane) == (TEXT, 2, lanes[1])
        assert "".join(delta.text for delta in deltas) == TEXT
        assert [delta.position for delta in deltas] == [*range(len(deltas))]
        assert len({delta.attempt for delta in deltas}) == 2
        async with connect(town.server.url) as pool:
            assert await raw(pool).xlen(f"{PREFIX}failed") == 0
        assert "disconnected" in [received.ended for received in town.backends["gpu0"].log]


async def test_a_worker_killed_while_its_hook_holds_text_back(tmp_path: Path) -> None:
    """The next worker's hook reads what was delivered, and the key that was cut in two is masked as a whole."""
    key = "sk-abcdefghij0123456789"
    pieces = ("a ", "b ", key[:9], key[9:], " c")
    hook = {"PYTHONPATH": str(ROOT / "docs" / "examples"), "TOKENLANE_ADVANCED__TOKEN_HOOK": "filters:mask_keys"}
    opening = site(tmp_path, lanes=("gpu0", "gpu0"), provider="llamacpp", variables=hook)
    async with opening as town, Client(town.server.url) as client:
        backend = town.backends["gpu0"]
        backend.faults.extend([FaultScript(pieces=pieces, hold_after=3), FaultScript(pieces=pieces)])
        async with client.chat("hi", role="planner") as stream:
            deltas = [await anext(stream) for _ in range(2)]
            await backend.held()
            await kill_who_runs(town, stream.request_id)
            deltas += [delta async for delta in stream]
        assert "".join(delta.text for delta in deltas) == "a b *** c"
        assert [delta.position for delta in deltas] == [*range(len(deltas))]
        assert len({delta.attempt for delta in deltas}) == 2
        assert [received.prefill for received in backend.log if received.sent] == ["", "a b"]


async def test_a_worker_killed_in_the_middle_of_an_answer_that_no_lane_can_continue(tmp_path: Path) -> None:
    """The agent gets what was delivered, as the error's partial, and not a word of another attempt."""
    async with site(tmp_path, lanes=("gpu0", "gpu0")) as town, Client(town.server.url) as client:
        async with client.chat("hi", role="planner", extra=extra(hold_after=5)) as stream:
            got = [(await anext(stream)).text for _ in range(5)]
            await kill_who_runs(town, stream.request_id)
            with pytest.raises(Interrupted) as interrupted:
                await anext(stream)
        assert interrupted.value.partial == stream.text == "".join(got) == "w0 w1 w2 w3 w4 "
        assert [received.ended for received in town.backends["gpu0"].log] == ["disconnected"]
        await settled(town, random.Random(0))


async def test_a_broken_answer_names_the_lane_that_gave_it(tmp_path: Path) -> None:
    """Another lane that cannot continue the answer has broken nothing: neither error nor list of failures names it."""
    async with site(tmp_path, lanes=("gpu0", "gpu1")) as town, Client(town.server.url) as client:
        async with client.chat("hi", role="planner", extra=extra(hold_after=5)) as stream:
            got = [await anext(stream) for _ in range(5)]
            await kill_who_runs(town, stream.request_id)
            with pytest.raises(Interrupted) as interrupted:
                await anext(stream)
        assert {delta.lane for delta in got} == {interrupted.value.lane} == {"gpu0"}
        assert interrupted.value.model == got[0].model
        async with connect(town.server.url) as pool:
            failures = await raw(pool).xrange(f"{PREFIX}failed")
        assert [fields[b"lane"] for _, fields in failures] == [b""]


@pytest.mark.parametrize("frozen", [True, False])
async def test_redis_away_in_the_middle_of_answers(frozen: bool, tmp_path: Path) -> None:
    """Killed or frozen for 3 s: answers that run and such that wait are whole, numbered and of one attempt each."""
    history: list[Event] = []
    async with site(tmp_path, Policy(), ("gpu0",)) as town, Client(town.server.url) as client:
        backend = town.backends["gpu0"]
        pieces = tuple(f"{number} " for number in range(40))
        asked = [ask(client, history, "planner", pieces, hold_after=5, itl_ms=50) for _ in range(2 * CAPACITY)]
        answers = asyncio.gather(*asked)
        await backend.held(CAPACITY)
        await (asyncio.to_thread(town.server.freeze) if frozen else town.server.kill())
        backend.release()
        await asyncio.sleep(3)
        await (asyncio.to_thread(town.server.thaw) if frozen else town.server.start())
        while not answers.done():
            await asyncio.wait({answers}, timeout=0.05)
            backend.release()
        assert await answers == ["completed"] * 2 * CAPACITY
        assert check_history(history) == []
        assert len(backend.log) == 2 * CAPACITY
        await settled(town, random.Random(0))


async def test_redis_wiped_in_the_middle_of_answers(tmp_path: Path) -> None:
    """A server that comes back empty: what runs completes, what waits is sent again by its client and completes."""
    history: list[Event] = []
    async with site(tmp_path, Policy(), ("gpu0",)) as town, Client(town.server.url) as client:
        backend = town.backends["gpu0"]
        tasks = [
            asyncio.create_task(ask(client, history, "planner", ("a ", "b ", "c "), hold_after=1))
            for _ in range(CAPACITY + 2)
        ]
        await backend.held(CAPACITY)
        await until(lambda: sum(isinstance(event, Accepted) for event in history) == len(tasks))
        await town.server.kill(wipe=True)
        await town.server.start()
        while not all(task.done() for task in tasks):
            await asyncio.wait(tasks, timeout=0.05)
            backend.release()
        assert [task.result() for task in tasks] == ["completed"] * len(tasks)
        assert check_history(history) == []
        assert len(backend.log) == len(tasks)
        await settled(town, random.Random(0))


@pytest.mark.parametrize("gone", ["worker", "model server"])
async def test_redis_wiped_and_then_the_attempt_breaks_off(gone: str, tmp_path: Path) -> None:
    """The wiped server knows the request from its worker alone. When that worker is killed, or its model server breaks
    the answer off, the agent sends the request again, and the answer goes on."""
    async with site(tmp_path, lanes=("gpu0", "gpu0"), provider="llamacpp") as town, Client(town.server.url) as client:
        backend = town.backends["gpu0"]
        backend.faults.append(FaultScript(hold_after=5))
        async with client.chat("hi", role="gpu0") as stream, connect(town.server.url) as pool:
            for _ in range(5):
                await anext(stream)
            before = await worker_of(pool, stream.request_id)
            await town.server.kill(wipe=True)
            await town.server.start()
            await pool.policies.write(POLICY)

            async def is_restored() -> bool:
                return await worker_of(pool, stream.request_id) == before

            await eventually(is_restored)
            assert await raw(pool).hget(f"{PREFIX}request:{stream.request_id}", "entry") == b""
            if gone == "worker":
                await kill_who_runs(town, stream.request_id)
            else:
                backend.cut()
            answer = await stream.answer()
        assert (answer.text, answer.usage.attempts) == (TEXT, 2)
        assert [received.prefill for received in backend.log if received.sent] == ["", "w0 w1 w2 w3 w4"]
        await settled(town, random.Random(0))


async def test_redis_full_and_freed(tmp_path: Path) -> None:
    """Full, the server refuses what is new and lets what runs end; freed, each worker has all its slots."""
    history: list[Event] = []
    async with site(tmp_path) as town, Client(town.server.url) as client:
        running = [
            asyncio.create_task(ask(client, history, lane, ("a ", "b "), hold_after=1))
            for lane in town.backends
            for _ in range(CAPACITY)
        ]
        for backend in town.backends.values():
            await backend.held(CAPACITY)
        queued = asyncio.create_task(ask(client, history, "planner", ("c ",)))
        await until(lambda: sum(isinstance(event, Accepted) for event in history) == len(running) + 1)
        await town.server.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(QueueFull, match="maxmemory"):
            await client.complete("hi", role="planner")
        for backend in town.backends.values():
            backend.release()
        assert await asyncio.gather(*running) == ["completed"] * len(running)
        await town.server.ask("CONFIG", "SET", "maxmemory", "0")
        assert await queued == "completed"
        assert check_history(history) == []
        await settled(town, random.Random(0))


async def test_a_frozen_worker_is_outdated(tmp_path: Path) -> None:
    """A worker that sleeps for longer than its lease says nothing more of what was given to another, and works on."""
    history: list[Event] = []
    async with site(tmp_path, lanes=("gpu0", "gpu0")) as town, Client(town.server.url) as client:
        backend = town.backends["gpu0"]
        backend.faults.append(FaultScript(hold_after=0))
        async with client.chat("hi", role="planner") as stream:
            await backend.held()
            async with connect(town.server.url) as pool:
                name = await worker_of(pool, stream.request_id)
            (frozen,) = [child for child in town.workers if child.name == name]
            frozen.freeze()
            answer = await stream.answer()
            frozen.thaw()
        assert (answer.text, answer.usage.attempts) == (TEXT, 2)
        await backend.wait_for(lambda: backend.log[0].ended == "disconnected")
        assert await ask(client, history, "planner", ("a ",)) == "completed"
        await settled(town, random.Random(0))
