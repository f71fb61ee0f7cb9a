"""Answers that break off and that another lane continues, for each pair of servers that can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import product
from pathlib import Path
from typing import TypeVar

import pytest
from tests.integration.farm import Server

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.settings.values import LaneSettings, RedisSettings
from tokenlane.producer import Client
from tokenlane.routing.contract.answers import TokenDelta, Usage
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.router import run_router
from tokenlane.routing.store.pool import connect
from tokenlane.routing.support.tasks import background
from tokenlane.worker.assembly import open_lane
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.model_server import circuit_breaker
from tokenlane.worker.run_and_drain import start_workers

T = TypeVar("T")

APIS = ("llamacpp", "vllm", "tgi", "lmstudio", "ollama")
TOKENS = 64
TEXT = "".join(f"w{number} " for number in range(TOKENS))
CUTS = (1, 2, 31, 63, 64)
"""After how many tokens the first lane's server closes the connection."""


@asynccontextmanager
async def lanes(url: str, simulators: dict[str, tuple[str, Simulator]]) -> AsyncIterator[list[Lane]]:
    """A router, and a lane for each of these model servers, in this process."""
    async with AsyncExitStack() as stack:
        opened = []
        for name, (api, simulator) in simulators.items():
            settings = LaneSettings(name, api, endpoint=simulator.url, capacity=64)
            opened.append(await stack.enter_async_context(open_lane(settings, RedisSettings(url))))
        tasks = await stack.enter_async_context(background())
        workers = [worker for lane in opened for worker in await start_workers(lane, tasks)]
        tasks.create_task(run_router(opened[0].pool, opened[0].hub, host="here"))
        try:
            yield opened
        finally:
            await asyncio.gather(*(worker.abandon() for worker in workers))


async def test_a_cut_answer_is_continued_by_every_other_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a server closes the connection, the text is that of an undisturbed answer, with no gap and no repeat. No
    circuit breaker saves an answer from that."""
    monkeypatch.setattr(circuit_breaker, "LEAST_FAILED", 1_000)
    pairs = list(product(APIS, APIS))
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(tmp_path))
        simulators = {}
        for place, api in product(("first", "second"), APIS):
            simulator = Simulator(api=api, tokens=TOKENS, itl_ms=2, capacity=64, loaded=["sim"])
            simulators[f"{place}-{api}"] = api, await stack.enter_async_context(simulator)
        pool = await stack.enter_async_context(connect(server.url))
        routes = {
            f"{one}.{two}": RolePolicy(route=(Candidate(lane=f"first-{one}"), Candidate(lane=f"second-{two}")))
            for one, two in pairs
        }
        await pool.policies.write(Policy(roles=routes))
        await stack.enter_async_context(lanes(server.url, simulators))
        client = await stack.enter_async_context(Client(server.url))
        by_cut: list[list[tuple[list[TokenDelta], Usage]]] = []
        for cut in CUTS:  # one after another, so that each role has an answer with each cut
            for api in APIS:
                faults = simulators[f"first-{api}"][1].faults
                faults.clear()
                faults.extend(FaultScript(cut_after=cut) for _ in range(20))
            by_cut.append(await asyncio.gather(*(ask(client, role) for role in routes)))
        for role, answers in zip(routes, zip(*by_cut, strict=True), strict=True):
            for deltas, usage in answers:
                assert "".join(delta.text for delta in deltas) == TEXT, role
                assert [delta.position for delta in deltas] == [*range(len(deltas))]
                assert not any(delta.restarted for delta in deltas)
                assert usage.attempts >= 2, role
                assert usage.completion_tokens == TOKENS, role
            both = [f"{place}-{api}" for place, api in zip(("first", "second"), role.split("."), strict=True)]
            assert both in [list(dict.fromkeys(delta.lane for delta in deltas)) for deltas, _ in answers]


async def gather_all(groups: Iterable[Sequence[Awaitable[T]]]) -> list[list[T]]:
    """The results of all awaitables, in their groups."""
    return [*await asyncio.gather(*(asyncio.gather(*group) for group in groups))]


async def ask(client: Client, role: str) -> tuple[list[TokenDelta], Usage]:
    """Ask a question, and return the deltas of the answer and its usage."""
    async with client.chat("q", role=role) as stream:
        return [delta async for delta in stream], (await stream.answer()).usage
