"""The whole way of a request through real processes: client, pool, routers, workers, model servers."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from tests.integration.farm import DEAF, NO_ROUTER, Farm, Server, eventually, farm
from tests.integration.life import audit, raw

from tokenlane.benches.simulator import Received, Simulator
from tokenlane.config.exit_codes import OK, USAGE
from tokenlane.producer import (
    Answer,
    ChatStream,
    Client,
    Interrupted,
    ModelNotFound,
    ProviderDown,
    UnreadableAnswer,
)
from tokenlane.routing.contract.wire import Priority
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store import scripts
from tokenlane.routing.store.pool import Pool, connect

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "".join(f"w{number} " for number in range(16))
POLICY = Policy(
    roles={
        "planner": RolePolicy(route=(Candidate(lane="gpu0"),)),
        "coder": RolePolicy(route=(Candidate(lane="gpu1"), Candidate(lane="gpu0"))),
        "nowhere": RolePolicy(route=(Candidate(lane="gpu9"),)),
    },
    patience_ms=300,
)


@dataclass
class Town:
    """Two lanes: `gpu0` with two workers, two slots and model `alpha`, `gpu1` with one worker, `beta` and `gamma`."""

    farm: Farm
    pool: Pool
    client: Client
    gpu0: Simulator
    gpu1: Simulator


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A server for all tests of this module; most use a pool of their own."""
    async with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    """The pool most tests here use; nothing runs in it before and after each."""
    async with (
        connect(server.url) as pool,
        Simulator(models=["alpha"], capacity=8) as gpu0,
        Simulator(models=["beta", "gamma"], capacity=8) as gpu1,
        farm(tmp_path_factory.mktemp("town"), server.url) as opened,
    ):
        await pool.policies.write(POLICY)
        await asyncio.gather(
            opened.worker("gpu0", gpu0, "--capacity", "2"),
            opened.worker("gpu0", gpu0, "--capacity", "2"),
            opened.worker("gpu1", gpu1, "--capacity", "2"),
        )
        async with Client(server.url) as client:
            yield Town(opened, pool, client, gpu0, gpu1)


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def nothing_left(server: Server) -> AsyncIterator[None]:
    """After each test every request in every pool has ended, and nothing is left but that."""
    yield

    async def over() -> bool:
        async with connect(server.url) as pool:
            return not await raw(pool).keys("{main}:arq:*") and not await raw(pool).keys("*:role:*")

    await eventually(over)
    async with connect(server.url) as pool:
        others = [key async for key in raw(pool).scan_iter() if not key.startswith(b"{main}:")]
        if others:
            await raw(pool).delete(*others)
        await audit(raw(pool))


def simulate(**script: object) -> dict[str, Any]:
    """The `extra` that tells the simulator what to do with a request."""
    return {"simulate": script}


async def fill(town: Town) -> list[asyncio.Task[Answer]]:
    """Fill lane gpu0 with answers that are held."""
    tasks = [
        asyncio.create_task(town.client.complete("fill", role="planner", extra=simulate(hold_after=1)))
        for _ in range(2)
    ]
    await town.gpu0.held(2)
    return tasks


@asynccontextmanager
async def entered(streams: list[ChatStream]) -> AsyncIterator[None]:
    """Enter streams, the first of which is submitted first."""
    async with streams[0]:
        if streams[1:]:
            async with entered(streams[1:]):
                yield
        else:
            yield


def why(stream: ChatStream) -> str | None:
    """Why it waits. mypy takes a property for a constant."""
    return stream.waiting


async def release(backend: Simulator, held: list[Received]) -> None:
    """Release held answers, and wait for their ends."""
    for received in held:
        backend.release(received.index)
    await backend.wait_for(lambda: all(received.ended for received in held))


async def started_by(pool: Pool, request_id: str) -> str:
    """The worker that ran a request."""
    (status,) = (await pool.beats.check("nobody", [request_id])).statuses
    return status.worker


def asked(received: Received) -> str:
    """The question a model server was asked."""
    return str(json.loads(received.body)["messages"][-1]["content"])


async def test_roles_are_answered_by_their_lanes(town: Town) -> None:
    """Many requests of two roles at once: each is answered whole by its lane, and the answer says where and what."""
    roles = ["planner", "coder"] * 12
    answers = await asyncio.gather(*(town.client.complete("hi", role=role, max_tokens=5) for role in roles))
    for role, answer in zip(roles, answers, strict=True):
        assert answer.text == "w0 w1 w2 w3 w4 "
        assert answer.finish_reason == "length"
        assert answer.usage.completion_tokens == 5
        assert answer.usage.prompt_tokens > 0
        assert answer.usage.attempts == 1
        assert answer.usage.queue_ms >= 0
        assert 0 < answer.usage.first_token_ms <= answer.usage.total_ms
        if role == "planner":
            assert (answer.lane, answer.model) == ("gpu0", "alpha")
    coders = Counter(answer.lane for role, answer in zip(roles, answers, strict=True) if role == "coder")
    assert coders["gpu1"] > 0, coders


async def test_a_model_of_one_lane_only(town: Town) -> None:
    """A request that names a model is answered by the lane that serves it, whatever its role."""
    answers = await asyncio.gather(
        *(town.client.complete("hi", role="anyone", model=model) for model in ("alpha", "beta", "gamma"))
    )
    assert [(answer.model, answer.lane) for answer in answers] == [
        ("alpha", "gpu0"),
        ("beta", "gpu1"),
        ("gamma", "gpu1"),
    ]


async def test_two_workers_share_a_lanes_capacity(town: Town) -> None:
    """A lane with two workers runs as many at once as it says, no more, and both of them work."""
    first = len(town.gpu0.log)
    tasks = [
        asyncio.create_task(town.client.complete(f"share {n}", role="planner", extra=simulate(hold_after=0)))
        for n in range(16)
    ]
    for _ in range(8):
        await town.gpu0.held(2)
        assert town.gpu0.running == 2
        held = [one for one in town.gpu0.log if one.held]
        await release(town.gpu0, held)
    assert {(await task).text for task in tasks} == {TEXT}
    assert len(town.gpu0.log) == first + 16
    running = {await started_by(town.pool, answer.request_id) for answer in await asyncio.gather(*tasks)}
    assert len(running) == 2, running


async def test_high_priority_is_served_first(town: Town) -> None:
    """When a lane is full, what is submitted last with a high priority is served before the rest, low last."""
    held = await fill(town)
    before = len(town.gpu0.log)
    priorities: tuple[Priority, ...] = ("low", "normal", "normal", "high")
    streams = [
        town.client.chat(f"{priority} {n}", role="planner", priority=priority) for n, priority in enumerate(priorities)
    ]
    async with entered(streams):
        # One slot alone is freed, so that they come one after another.
        town.gpu0.release(list(town.gpu0.log)[before - 1].index)
        await asyncio.gather(*(stream.answer() for stream in streams))
    served = [asked(received).split()[0] for received in list(town.gpu0.log)[before:]]
    assert served == ["high", "normal", "normal", "low"]
    town.gpu0.release()
    await asyncio.gather(*held)


async def test_waiting_says_why(town: Town) -> None:
    """A stream that has not started says what it waits for; one that has says nothing."""
    held = await fill(town)
    async with town.client.chat("hi", role="planner") as stream:
        assert why(stream)
        town.gpu0.release()
        await stream.answer()
        assert why(stream) is None
    await asyncio.gather(*held)


async def test_waiting_says_that_nobody_serves(server: Server) -> None:
    """In a pool without workers a stream says what to start."""
    async with Client(server.url, pool="empty") as client, client.chat("hi", role="planner") as stream:
        assert "tokenlane worker" in (why(stream) or "")


async def test_what_nobody_serves_is_refused(town: Town) -> None:
    """A role without a lane and an unknown model fail within patience, and say what there is."""
    with pytest.raises(ProviderDown, match="role 'nowhere'") as nowhere:
        await town.client.complete("hi", role="nowhere")
    assert not nowhere.value.retryable
    assert "gpu0" not in str(nowhere.value)
    with pytest.raises(ModelNotFound, match="alpha") as unknown:
        await town.client.complete("hi", role="planner", model="omega")
    assert "beta" not in str(unknown.value), "planner may not use the lane that has it"
    with pytest.raises(ProviderDown, match="role 'planner'"):
        await town.client.complete("hi", role="planner", model="beta")


async def test_an_answer_beyond_all_bounds_is_interrupted(town: Town) -> None:
    """What came before a line without end is told; where nothing came, the model server is at fault."""
    with pytest.raises(Interrupted) as raised:
        await town.client.complete("hi", role="planner", extra=simulate(huge_line_after=2))
    assert (raised.value.partial, raised.value.retryable) == ("w0 w1 ", False)
    with pytest.raises(UnreadableAnswer):
        await town.client.complete("hi", role="planner", extra=simulate(huge_line_after=0))


async def test_a_lane_name_in_use(town: Town) -> None:
    """A worker with another endpoint for a live lane's name ends with code 2 and says what to do."""
    child = await town.farm.tokenlane("worker", "--lane", "gpu0", "--provider", "openai", "--endpoint", town.gpu1.url)
    ended = await child.ended()
    assert ended.code == USAGE, ended
    assert "--lane" in ended.error
    assert town.gpu0.url.rpartition(":")[2] in ended.error


async def all_refuse(directory: Path, url: str, *commands: tuple[str, ...]) -> set[str]:
    """Run the commands at that URL, which all must end with code 2; what they say, once each."""
    async with farm(directory, url) as opened:
        children = [await opened.tokenlane(*command) for command in commands]
        ends = await asyncio.gather(*(child.ended() for child in children))
    assert {(ended.code, ended.out) for ended in ends} == {(USAGE, "")}, ends
    return {ended.error for ended in ends}


async def test_a_redis_that_is_none(server: Server, tmp_path: Path) -> None:
    """Nothing there, a password, HTTP: each is told in one line, with code 2; by worker, chat and router alike."""
    chat, router = ("chat", "hi"), ("router",)
    async with Server(tmp_path, "--requirepass", "secret1") as locked, Simulator() as web:
        port = web.url.rpartition(":")[2]
        worker = ("worker", "--provider", "openai", "--endpoint", web.url)
        expected: list[tuple[str, str, list[tuple[str, ...]]]] = [
            ("redis://127.0.0.1:1", "No Redis server answers", [router]),
            (locked.url, "requires a password", [worker, chat, router]),
            (f"redis://127.0.0.1:{port}", "not a Redis server", [chat]),
        ]
        for number, (url, says, commands) in enumerate(expected):
            directory = tmp_path / str(number)
            directory.mkdir()
            (said,) = await all_refuse(directory, url, *commands)
            assert says in said
            assert said.count("\n") == 1


async def test_a_router_alone_routes(server: Server, tmp_path: Path) -> None:
    """Where no worker routes, requests wait until a `tokenlane router` does; it ends with 0 on SIGTERM."""
    async with Simulator() as backend, farm(tmp_path, server.url, "routed") as opened:
        await opened.worker("gpu0", backend, shim=NO_ROUTER)
        async with Client(server.url, pool="routed") as client, client.chat("hi", role="planner") as stream:
            assert not backend.log
            router = await opened.tokenlane("router")
            assert (await stream.answer()).text == TEXT
        assert (await router.end()).code == OK


async def test_without_any_doorbell(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all rings lost, requests of many agents are answered all the same, and cancelled ones end."""
    source = scripts._source
    monkeypatch.setattr(scripts, "_source", lambda *args: source(*args).replace("'doorbell", "'nobody"))
    async with Simulator() as backend, farm(tmp_path, server.url, "deaf") as opened, Hearing(server.url) as hearing:
        await asyncio.gather(*(opened.worker(lane, backend, shim=DEAF) for lane in ("gpu0", "gpu1")))
        async with Client(server.url, pool="deaf") as client:
            asked = [client.complete("hi", role=role) for role in ("planner", "coder") * 6]
            assert {answer.text for answer in await asyncio.gather(*asked)} == {TEXT}
            async with client.chat("hi", role="planner", extra=simulate(hold_after=0)):
                await backend.held()
            await backend.wait_for(lambda: backend.running == 0)
        assert not await hearing.rings()


class Hearing:
    """Hears every doorbell of the pool `deaf`."""

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url)
        self._pubsub = self._redis.pubsub()

    async def __aenter__(self) -> Hearing:
        await self._pubsub.psubscribe("{deaf}:*:doorbell*")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pubsub.aclose()
        await self._redis.aclose()

    async def rings(self) -> list[bytes]:
        """All rings so far."""
        await self._pubsub.ping()
        rings = []
        while (message := await self._pubsub.get_message(timeout=5)) and message["type"] != "pong":
            if message["type"] == "pmessage":
                rings.append(message["channel"])
        return rings


UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=400)
AWKWARD = (
    "\x00\x1b\u2028\u2029\ufeff\uffff\U0010ffff\"\\'{{}}%s\r\n\t"
    "</s><|im_end|>[DONE]data: \U0001f9d1\u200d\U0001f680e\u0301"
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=UNICODE, system=UNICODE)
@example(text=AWKWARD, system=AWKWARD)
@example(text="", system="\x00")
async def test_text_arrives_as_it_was_sent(town: Town, text: str, system: str) -> None:
    """Whatever an agent says arrives at the server as it was sent, and comes back as it was said, byte for byte."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    pieces = [text, system, "end"]
    answer = await town.client.complete(messages, role="planner", extra=simulate(pieces=pieces))
    received = json.loads(town.gpu0.log[-1].body)
    assert [message["content"].encode() for message in received["messages"]] == [system.encode(), text.encode()]
    assert [message["role"] for message in received["messages"]] == ["system", "user"]
    assert answer.text.encode() == "".join(pieces).encode()
