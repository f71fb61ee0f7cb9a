"""`tokenlane up` that serves the toy, and a model server that comes later; the toy is a simulated one."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration import life
from tests.integration.farm import Child, Farm, eventually, farm
from tests.integration.servers import free_port
from tests.lanes import chats

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.exit_codes import OK
from tokenlane.producer import Client
from tokenlane.routing.decide.lanes.fallback_lane import of_model_servers
from tokenlane.routing.decide.lanes.offer import Announcement
from tokenlane.routing.store.pool import Pool

SHIM = """
import contextlib, dataclasses, os
import tokenlane.worker.discovery.targets as places, tokenlane.worker.commands.up as up
@contextlib.asynccontextmanager
async def with_builtin_server(lane, progress=None):
    ours = up.needs_builtin_server(lane)
    yield dataclasses.replace(lane, endpoint=os.environ["TOY"]) if ours else lane
up.with_builtin_server = with_builtin_server
up._LOOK_AGAIN_S = 0.2
up._STEADY_EVERY_S = 0.05
up._AWAY_S = 1.0
places.usual_targets = lambda: []
"""
"""The toy's server runs already, nothing else is looked for on this host, and that often."""


@pytest.fixture
async def site(tmp_path: Path, redis_url: str) -> AsyncIterator[Farm]:
    """Commands of the pool."""
    async with farm(tmp_path, redis_url) as opened:
        yield opened


async def up(site: Farm, toy: Simulator, port: int, **more: str) -> Child:
    """`up` where no provider is configured, and an Ollama may come at the port."""
    places = {"TOY": toy.url, "TOKENLANE_OLLAMA__ENDPOINT": f"http://127.0.0.1:{port}"}
    return await site.tokenlane("up", "--supervised", shim=SHIM, **places, **more)


async def providers(pool: Pool) -> list[str]:
    """The providers of the lanes that accept work. Every worker serves the fallback lane too, a little later than its
    own."""
    return [lane.provider for lane in of_model_servers((await pool.survey()).lanes) if lane.state.accepts_work]


@pytest.mark.parametrize("named", [False, True])
async def test_a_server_that_comes_takes_the_toy_s_place(named: bool, site: Farm, pool: Pool) -> None:
    """A running answer of the toy comes to its end, what is asked meanwhile waits, and all that follows is of the real
    model; whether or not the lane was given a name."""
    port = free_port()

    async def toy_serves() -> bool:
        return await providers(pool) == ["builtin"]

    async def toy_gives_way() -> bool:
        return not await toy_serves()

    async with (
        Simulator(api="llamacpp", faults=[FaultScript(hold_after=1)]) as toy,
        Client(site.url) as client,
    ):
        child = await up(site, toy, port, **({"TOKENLANE_LANE": "gpu0"} if named else {}))
        await eventually(toy_serves, 40, child=child)
        async with client.chat("first", role="planner") as first:
            await toy.held()
            async with Simulator(api="ollama", port=port, models=["real"]):
                await eventually(toy_gives_way, child=child)
                async with client.chat("second", role="planner") as second:
                    toy.release()
                    assert (await first.answer()).model == "sim"
                    assert (await second.answer()).model == "real:latest"
                assert await providers(pool) == ["ollama"]
                assert child.out.count("model   ") == 2
                assert (await child.end()).code == OK


async def test_a_server_that_cannot_be_served_does_not_end_up(site: Farm, pool: Pool) -> None:
    """Its lane's name is another's: the toy serves again, and that server is not tried once more."""
    port = free_port()
    taken = Announcement(f"{socket.gethostname()}-ollama", "ollama", "http://elsewhere", ("other",), chats(1))
    async with Simulator(api="llamacpp") as toy, Client(site.url) as client:
        child = await up(site, toy, port)

        async def toy_serves() -> bool:
            return "builtin" in await providers(pool)

        async def toy_serves_again() -> bool:
            await life.beat(pool, "another", taken)
            return child.out.count("model   ") == 3 and await toy_serves()

        await eventually(toy_serves, 40, child=child)
        await life.beat(pool, "another", taken)
        async with Simulator(api="ollama", port=port, models=["real"]):
            await eventually(toy_serves_again, 40, child=child)
            assert (await client.complete("hello", role="planner", model="sim")).text
        assert child.out.count("model   ") == 3
        assert (await child.end()).code == OK


async def test_up_returns_to_the_toy_when_the_server_stays_away(site: Farm, pool: Pool) -> None:
    """The toy serves again when the server that replaced it stays away, and gives way again when the server is back."""
    port = free_port()

    async def provider_is(wanted: str) -> bool:
        return await providers(pool) == [wanted]

    async with Simulator(api="llamacpp") as toy:
        child = await up(site, toy, port)
        await eventually(lambda: provider_is("builtin"), 40, child=child)
        async with Simulator(api="ollama", port=port, models=["real"]):
            await eventually(lambda: provider_is("ollama"), 40, child=child)
        await eventually(lambda: provider_is("builtin"), 40, child=child)
        async with Simulator(api="ollama", port=port, models=["real"]):
            await eventually(lambda: provider_is("ollama"), 40, child=child)
            assert (await child.end()).code == OK


async def test_a_chosen_toy_does_not_promise_to_give_way(site: Farm, pool: Pool) -> None:
    """With `--provider builtin` no server is looked for, and `up` does not say that it switches."""
    async with Simulator(api="llamacpp") as toy:
        child = await up(site, toy, free_port(), TOKENLANE_PROVIDER="builtin")

        async def toy_serves() -> bool:
            return await providers(pool) == ["builtin"]

        await eventually(toy_serves, 40, child=child)
        assert "switches" not in child.out
        assert "--provider" in child.out
        assert (await child.end()).code == OK
