"""A stack of real processes that serves many seeds: a Redis server, a router, workers and agents, with TCP proxies
between them and in front of simulators that continue an answer exactly."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import JsonValue
from tests.faults import agent_process
from tests.faults.leftovers import WRITES_HOLDINGS, Holdings, idle_holdings
from tests.faults.plan import CAPACITY, LANES, LEASE_S, MARK, PLACES, Question
from tests.faults.tcp_proxy import TcpProxy, tcp_proxy
from tests.integration.farm import DEAF, Child, Farm, Server, eventually, farm

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.host.pool_key_files import KeyRing, PoolKey
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import Pool, connect

__all__ = ["AGENTS", "Agent", "ModelServer", "Place", "Stack", "stack", "until_answered"]

AGENTS: Final = ("asyncio", "uvloop")
"""The event loops of the agents. The first agent rings doorbells that nobody hears."""
_ROUTES: Final = {
    "planner": ("gpu0", "gpu1"),
    "coder": ("gpu1", "gpu0"),
    "mixed": ("gpu2", "gpu0", "gpu1"),
    "plain": ("gpu2",),
    **{lane: (lane,) for lane in LANES},
}
_POLICY: Final = Policy(
    roles={role: RolePolicy(route=tuple(Candidate(lane=lane) for lane in lanes)) for role, lanes in _ROUTES.items()},
    lease_ms=int(1000 * LEASE_S),
    start_lease_ms=700,
    orphan_ms=8000,
    max_crashes=100,
    max_starts=100,
    patience_ms=10_000,
)
_AGENT: Final = Path(agent_process.__file__).read_text().replace("from __future__ import annotations\n", "")


class ModelServer(Simulator):
    """A simulator whose next chats fail as `scripts` say, whatever answer they ask for."""

    def __init__(self, api: str) -> None:
        super().__init__(api=api, capacity=64, loaded=["sim"])
        self.api = api
        self.scripts: deque[FaultScript] = deque()
        self.times: list[float] = []

    def _pick_fault(self, path: str, model: str, parsed: dict[str, JsonValue], *, chats: bool) -> FaultScript:
        wanted = super()._pick_fault(path, model, parsed, chats=chats)
        if not chats:
            return wanted
        self.times.append(time.monotonic())
        if not self.scripts:
            return wanted
        return wanted.model_copy(update=self.scripts.popleft().model_dump(exclude_unset=True))


@dataclass(eq=False)
class Place:
    """A place for a worker of a lane, with a proxy of its own to Redis. The workers of a lane share the proxy to their
    model server, since all of them must name the same endpoint."""

    name: str
    lane: str
    farm: Farm
    redis: TcpProxy
    server: TcpProxy
    model_server: ModelServer
    key: str
    worker: Child | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def child(self) -> Child:
        """The worker."""
        assert self.worker is not None
        return self.worker

    async def start(self, *, deaf: bool = False) -> None:
        """Start a worker here, again if Redis does not answer, as systemd does. `deaf`: nobody hears its doorbells."""
        async with asyncio.timeout(60):
            while True:
                child = await self.farm.tokenlane(
                    *("worker", "--json", "--supervised", "--drain", "5"),
                    *("--lane", self.lane, "--capacity", str(CAPACITY)),
                    *("--provider", self.model_server.api, "--endpoint", f"http://127.0.0.1:{self.server.port}"),
                    shim=WRITES_HOLDINGS + (DEAF if deaf else ""),
                    TOKENLANE_POOL_KEY=self.key,
                )
                await eventually(partial(_has_reported, child), 40)
                report = json.loads(child.out.splitlines()[0])
                if report.get("error", {}).get("code") != "pool_unavailable":
                    break
                await child.ended()
        assert "worker" in report, report
        child.name = report["worker"]
        self.worker = child

    async def replace(self, stop: Callable[[Child], Awaitable[object]], *, deaf: bool) -> None:
        """Stop the worker, and start another one meanwhile."""
        await asyncio.gather(stop(self.child), self.start(deaf=deaf))


async def _has_reported(child: Child) -> bool:
    """Whether a worker has written its first line."""
    assert child.running or child.out, child.error
    return "\n" in child.out


async def _routes_or_ended(child: Child) -> bool:
    return "routing requests" in child.error or not child.running


@dataclass(eq=False)
class Agent:
    """A place for an agent's process. `lock`: held by a fault that stops or replaces the process.

    `loop`: its event loop. `unread`: events of a killed process. `read`: how much of the output has been read.
    """

    loop: str
    farm: Farm
    key: str
    process: Child | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    unread: list[dict[str, object]] = field(default_factory=list)
    read: int = 0

    @property
    def child(self) -> Child:
        """The process."""
        assert self.process is not None
        return self.process

    async def start(self) -> None:
        """Start a process, and wait until it is connected."""
        code = WRITES_HOLDINGS + (DEAF if self.loop == AGENTS[0] else "") + _AGENT
        arguments = (self.loop, self.farm.url, f"on-{self.loop}")
        self.process, self.read = await self.farm.python(code, *arguments, TOKENLANE_POOL_KEY=self.key), 0

        async def connected() -> bool:
            return "\n" in self.child.out

        await eventually(connected, 40, child=self.child)

    async def kill(self) -> None:
        """Kill the process, and start another one, which asks none of its questions."""
        await self.child.kill()
        self.unread = [*self.new_events(), {"event": "killed", "time": time.monotonic()}]
        await self.start()

    def ask(self, question: Question) -> None:
        """Have it ask a question."""
        assert self.child.process.stdin is not None
        self.child.process.stdin.write(question.to_line())

    def new_events(self) -> list[dict[str, object]]:
        """The events that it has written since the last call."""
        with self.child.out_file.open("rb") as file:
            file.seek(self.read)
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        self.read += len(lines)
        unread, self.unread = self.unread, []
        return unread + [json.loads(line) for line in lines.splitlines()]


@dataclass(eq=False)
class Stack:
    """Everything that runs.

    `server_lock`, `router_lock`: held by a fault that stops the Redis server or the router. `wiped`: whether the server
    lost its data during the seed. `idle`: what each process held before the first seed.
    """

    server: Server
    pool: Pool
    key: str
    model_servers: dict[str, ModelServer]
    places: list[Place]
    others: Farm
    agents: list[Agent]
    agents_redis: TcpProxy
    directory: Path
    router_process: Child | None = None
    server_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    router_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    wiped: bool = False
    idle: Mapping[str, Holdings] = field(default_factory=dict)

    @property
    def proxies(self) -> list[TcpProxy]:
        """The proxies in front of the Redis server."""
        return [self.agents_redis, *(place.redis for place in self.places)]

    @property
    def children(self) -> dict[str, Child]:
        """The processes of tokenlane, with names."""
        workers = {place.name: place.child for place in self.places}
        return {**workers, "router": self.router, **{agent.loop: agent.child for agent in self.agents}}

    @property
    def router(self) -> Child:
        """The router that serves no lane."""
        assert self.router_process is not None
        return self.router_process

    async def start_router(self) -> None:
        """Start the router, again if Redis does not answer, as systemd does, and wait until it routes."""
        child = self.router_process
        while child is None or not child.running:
            child = await self.others.tokenlane("router", shim=WRITES_HOLDINGS, TOKENLANE_POOL_KEY=self.key)
            await eventually(partial(_routes_or_ended, child), 40)
        self.router_process = child

    async def wipe(self) -> None:
        """Start the Redis server again without its data, and apply the policy again."""
        self.wiped = True
        await self.server.kill(wipe=True)
        await self.server.start()
        await write_policy(self.pool)

    def connections(self) -> dict[str, int]:
        """The number of open connections to each lane's model server."""
        return {place.lane: place.server.connections for place in self.places}

    def files(self) -> list[Path]:
        """The files that processes left in their temporary directory."""
        return [path for path in (self.directory / "tmp").rglob("*") if path.is_file() or path.is_socket()]

    def readable_on_disk(self) -> bool:
        """Whether a prompt or an answer is readable in the files of the Redis server."""
        files = [path for path in self.directory.glob("redis-*/**/*") if path.is_file()]
        return any(MARK in path.read_bytes() for path in files)


async def until_answered(call: Callable[[], Awaitable[object]]) -> None:
    """Repeat what an operator does until Redis answers."""
    while True:
        try:
            await call()
        except LlmError:
            await asyncio.sleep(0.1)
        else:
            return


async def write_policy(pool: Pool) -> None:
    """Write the policy, as an operator does, until Redis answers."""
    await until_answered(lambda: pool.policies.write(_POLICY))


@asynccontextmanager
async def stack(directory: Path, apis: Sequence[str]) -> AsyncIterator[Stack]:
    """A stack that is ready to serve. At the end every process must end in order, without a traceback.

    Args:
        apis: the kind of each lane's model server.
    """
    (directory / "tmp").mkdir()
    os.environ["TMPDIR"] = str(directory / "tmp")
    key = PoolKey.new().reveal()
    async with AsyncExitStack() as open_stack:
        open_stack.callback(os.environ.pop, "TMPDIR")
        enter = open_stack.enter_async_context
        server = await enter(Server(directory))
        pool = await enter(connect(server.url, keys=KeyRing.parse(key)))
        await write_policy(pool)
        model_servers = {lane: await enter(ModelServer(api)) for lane, api in zip(LANES, apis, strict=True)}
        to_servers = {lane: await enter(tcp_proxy(urlsplit(one.url).port or 0)) for lane, one in model_servers.items()}
        places = []
        for name in PLACES:
            lane = name.partition(".")[0]
            to_redis = await enter(tcp_proxy(server.port, MARK))
            (directory / name).mkdir()
            place_farm = await enter(farm(directory / name, f"redis://127.0.0.1:{to_redis.port}/0"))
            places.append(Place(name, lane, place_farm, to_redis, to_servers[lane], model_servers[lane], key))
        agents_redis = await enter(tcp_proxy(server.port, MARK))
        (directory / "others").mkdir()
        others = await enter(farm(directory / "others", f"redis://127.0.0.1:{agents_redis.port}/0"))
        agents = [Agent(loop, others, key) for loop in AGENTS]
        opened = Stack(server, pool, key, model_servers, places, others, agents, agents_redis, directory)
        starts = (opened.start_router(), *(place.start() for place in places), *(agent.start() for agent in agents))
        await asyncio.gather(*starts)
        opened.idle = await idle_holdings(opened.children)
        yield opened
