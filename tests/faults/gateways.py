"""Two gateways in front of a pool of real processes, clients that read responses through them, and what kills them."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeAlias

import openai
from openai import AsyncOpenAI, AsyncStream
from openai.types.responses import ResponseStreamEvent
from pydantic import JsonValue
from tests.faults.plan import MARK
from tests.faults.scenario import CAPACITY, POLICY
from tests.integration.farm import Child, Farm, Server, eventually, farm
from tests.integration.life import dump, raw
from tests.integration.servers import free_port

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.routing.store.pool import connect

__all__ = ["TEXT", "Fault", "Reader", "Town", "draw_faults", "town"]

_PIECES: Final = tuple(f"{MARK.decode()} {number}{' é🙂'[number % 3]}" for number in range(30))
TEXT: Final = "".join(_PIECES)
"""The text of every answer. Each of its pieces has an unmistakable word."""
LANES: Final = ("gpu0", "gpu1")
_TERMINAL: Final = ("response.completed", "response.incomplete", "response.failed")
_AWAY: Final = (openai.APIConnectionError, openai.InternalServerError)
"""What a client gets of a gateway that is dead, or that cannot reach the pool."""
_NAMES: Final = ("gateway", "worker", "router", "redis")
_WEIGHTS: Final = (3, 3, 1, 1)

_Kind: TypeAlias = Literal["gateway", "worker", "router", "redis"]


class ModelServer(Simulator):
    """A simulator that gives the same answer to everyone, and continues it exactly."""

    def _pick_fault(self, path: str, model: str, parsed: dict[str, JsonValue], *, chats: bool) -> FaultScript:
        return FaultScript(pieces=_PIECES) if chats else super()._pick_fault(path, model, parsed, chats=chats)


@dataclass(frozen=True)
class Fault:
    """What is killed, and when. `which`: of several, the one to choose."""

    after_s: float
    kind: _Kind
    which: int


def draw_faults(seed: int) -> list[Fault]:
    """Draw one to three faults. The same seed always gives the same ones."""
    rng = random.Random(seed)
    kinds: Sequence[_Kind] = rng.choices(_NAMES, _WEIGHTS, k=rng.randint(1, 3))
    faults = [Fault(rng.uniform(0, 1.0), kind, rng.randrange(2)) for kind in kinds]
    return sorted(faults, key=lambda fault: fault.after_s)


@dataclass
class Reader:
    """A client that reads one response, and goes to the other gateway whenever one does not answer.

    Attributes:
        numbers: the number of every event it got.
        text: the joined deltas.
        endings: the types of the terminal events.
        final: the text that the last event has.
        error: the code of the error with which the response failed; empty if it did not.
    """

    urls: Sequence[str]
    place: int
    named: str = ""
    numbers: list[int] = field(default_factory=list)
    text: str = ""
    endings: list[str] = field(default_factory=list)
    final: str = ""
    error: str = ""
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self) -> None:
        """Begin a response in the background, and read it to its end."""
        with suppress(*_AWAY):
            async with self._client() as client:
                asked = client.responses.create(model="role:planner", input="hi", background=True, stream=True)
                await self._take(await asked)
        await self.follow(self.named)

    async def follow(self, named: str) -> None:
        """Read a response that was begun to its end."""
        self.named = named
        async with asyncio.timeout(90):
            while not self.endings:
                with suppress(*_AWAY):
                    async with self._client() as client:
                        after = self.numbers[-1] if self.numbers else openai.omit
                        stream = await client.responses.retrieve(named, stream=True, starting_after=after)
                        await self._take(stream)
                if not self.endings:
                    self.place += 1
                    await asyncio.sleep(0.1)  # as clients do between their tries

    def _client(self) -> AsyncOpenAI:
        url = self.urls[self.place % len(self.urls)]
        return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30)

    async def _take(self, stream: AsyncStream[ResponseStreamEvent]) -> None:
        async for event in stream:
            self.numbers.append(event.sequence_number)
            if event.type == "response.created":
                self.named = event.response.id
                self.begun.set()
            elif event.type == "response.output_text.delta":
                self.text += event.delta
            elif event.type in _TERMINAL:
                self.endings.append(event.type)
            if event.type in ("response.completed", "response.failed"):
                self.final = event.response.output_text
                self.error = str(event.response.error.code) if event.response.error else ""

    def problems(self) -> list[str]:
        """What must not be, in words."""
        found = []
        if self.numbers != sorted(set(self.numbers)):
            found.append(f"numbers do not rise strictly: {self.numbers}")
        if len(self.endings) != 1:
            found.append(f"the terminal events are {self.endings}")
        if self.endings == ["response.completed"] and not self.text == self.final == TEXT:
            found.append(f"{len(self.text)} characters of deltas, {len(self.final)} at the end, of {len(TEXT)}")
        if not TEXT.startswith(self.text):
            found.append("the text has a gap or a repeat")
        return found


@dataclass
class Town:
    """What runs."""

    directory: Path
    server: Server
    farm: Farm
    backends: dict[str, ModelServer]
    urls: list[str] = field(default_factory=list)
    gateways: list[Child] = field(default_factory=list)
    workers: list[Child] = field(default_factory=list)
    router: Child | None = None
    _locks: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    async def start_gateway(self, place: int) -> Child:
        """Start a gateway at its place, again if Redis does not answer, as systemd does."""
        port = self.urls[place].rpartition(":")[2]
        return await self._until_says(partial(self.farm.tokenlane, "serve", "--port", port), self.urls[place])

    async def start_worker(self, place: int) -> Child:
        """Start a lane's worker, again if Redis does not answer."""
        lane = LANES[place]
        options = ("--json", "--supervised", "--lane", lane, "--capacity", str(CAPACITY))
        serving = ("--provider", "llamacpp", "--endpoint", self.backends[lane].url)
        return await self._until_says(partial(self.farm.tokenlane, "worker", *options, *serving), '"worker"')

    async def start_router(self) -> Child:
        """Start the router, again if Redis does not answer."""
        return await self._until_says(partial(self.farm.tokenlane, "router"), "routing requests")

    async def carry_out(self, fault: Fault) -> None:
        """Kill something after a time, and start it again."""
        await asyncio.sleep(fault.after_s)
        async with self._locks[fault.kind]:  # until it is there again
            await self._restart(fault)

    async def _restart(self, fault: Fault) -> None:
        match fault.kind:
            case "gateway":
                await self.gateways[fault.which].kill()
                self.gateways[fault.which] = await self.start_gateway(fault.which)
            case "worker":
                await self.workers[fault.which].kill()
                self.workers[fault.which] = await self.start_worker(fault.which)
            case "router":
                assert self.router is not None
                await self.router.kill()
                self.router = await self.start_router()
            case "redis":
                await self.server.kill()
                await self.server.start()

    async def readable(self) -> list[str]:
        """Where a word of an answer is readable: keys of Redis, and files that any process has written."""
        async with connect(self.server.url) as pool:
            held = await dump(raw(pool))
        found = [key for key, value in held.items() if MARK.decode() in json.dumps(value, default=str)]
        files = [path for path in self.directory.rglob("*") if path.is_file()]
        return [*found, *(str(path) for path in files if MARK in path.read_bytes())]

    async def _until_says(self, start: Callable[[], Awaitable[Child]], text: str) -> Child:
        while True:
            child = await start()

            async def said_or_ended(child: Child = child) -> bool:
                return text in child.out or text in child.error or not child.running

            await eventually(said_or_ended, 60)
            if child.running:
                return child


@asynccontextmanager
async def town(directory: Path) -> AsyncIterator[Town]:
    """A pool with two lanes that continue answers, and two gateways that are ready."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(directory))
        async with connect(server.url) as pool:
            await pool.policies.write(POLICY)
        backends = {
            lane: await stack.enter_async_context(ModelServer(capacity=64, ttft_ms=50, itl_ms=40)) for lane in LANES
        }
        opened = Town(directory, server, await stack.enter_async_context(farm(directory, server.url)), backends)
        opened.urls = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
        starts = (*(opened.start_gateway(place) for place in range(2)), *(opened.start_worker(at) for at in range(2)))
        opened.router, *others = await asyncio.gather(opened.start_router(), *starts)
        opened.gateways, opened.workers = others[:2], others[2:]
        yield opened
