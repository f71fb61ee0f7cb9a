"""Servers that hold one model at a time, or sleep: models come and go without cutting off a request."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from tests.integration.farm import eventually
from tests.integration.lanes import lane_of

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import BadRequest, Client
from tokenlane.producer.commands.swap_steps import Swap, SwapStep
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import Pool
from tokenlane.worker.lane.model_server.describe_lane import describe_lane
from tokenlane.worker.providers import default_registry

TOKENS = 12
WHOLE = "".join(f"w{number} " for number in range(TOKENS))


async def test_a_router_of_llama_cpp_cuts_off_no_request(redis_url: str, pool: Pool, client: Client) -> None:
    """Requests for two models of which the server holds one, commands and a swap: each answer is complete."""
    await pool.policies.write(Policy(roles={"planner": RolePolicy(route=(Candidate(model="a"),))}))
    server = Simulator(api="llamacpp-router", models=["a", "b"], tokens=TOKENS, itl_ms=2, capacity=8)
    async with server, lane_of(redis_url, LaneSettings("gpu0", "llamacpp", server.url)):
        answers = await asyncio.gather(
            *(client.complete("hi", role="any", model=model) for model in ("a", "b") for _ in range(10))
        )
        assert {(answer.text, answer.usage.attempts) for answer in answers} == {(WHOLE, 1)}
        assert {received.ended for received in server.log} == {"completed"}

        await client.load("a", lane="gpu0")
        server.faults.append(FaultScript(hold_after=3))
        async with client.chat("hi", role="planner") as stream:
            await server.held(1)
            steps: list[SwapStep] = []
            swap = Swap(client, pool, "planner", "b", steps.append, lambda _: None, 20)
            swapping = asyncio.create_task(swap.run())
            while not await runs_a_command(
                pool
            ):  # the load of the swap, and not the unload, which lets nothing overtake
                await asyncio.sleep(0.01)
            unloading = asyncio.create_task(client.unload("a", lane="gpu0"))
            late = asyncio.create_task(client.complete("hi", role="planner", model="a"))
            assert (await late).text == WHOLE  # requests for the loaded model overtake for a while
            assert not steps
            server.release()
            answer = await stream.answer()
        assert (answer.text, answer.model) == (WHOLE, "a")
        await asyncio.gather(swapping, unloading)
        assert [step.step for step in steps] == ["loaded", "answered", "moved"]
        assert (await client.complete("hi", role="planner")).model == "b"
        assert {received.ended for received in server.log} == {"completed"}
        assert [info.loaded for info in await client.models()] == [False, True]


async def runs_a_command(pool: Pool) -> bool:
    """Whether the lane has been given a command."""
    (lane,) = await pool.lanes()
    return lane.queued.get("command", 0) > 0


async def is_asleep(server: Simulator) -> bool:
    """Whether vLLM's server sleeps, as it says itself."""
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/is_sleeping") as answer:
        return bool((await answer.json())["is_sleeping"])


async def test_vllm_sleeps_when_no_request_runs_and_wakes_up_for_the_next(
    redis_url: str, pool: Pool, client: Client
) -> None:
    """An unloaded model keeps its abilities in the lane's offer, and a request loads it again."""
    server = Simulator(api="vllm", models=["m"], tokens=TOKENS)
    async with server, lane_of(redis_url, LaneSettings("gpu0", "vllm", server.url)):
        server.faults.append(FaultScript(hold_after=3))
        async with client.chat("hi", role="planner") as stream:
            await server.held(1)
            unloading = asyncio.create_task(client.unload("m"))
            await eventually(lambda: runs_a_command(pool))
            assert not unloading.done()
            server.release()
            assert (await stream.answer()).text == WHOLE
        await unloading
        assert await is_asleep(server)
        (asleep,) = await client.models()
        assert (asleep.loaded, "tools" in asleep.capabilities) == (False, True)
        assert (await client.complete("hi", role="planner")).text == WHOLE
        assert not await is_asleep(server)
        await client.unload("m")
        await client.load("m")
        assert [info.loaded for info in await client.models()] == [True]


@pytest.mark.parametrize("provider", ["vllm", "llamacpp"])
async def test_a_server_without_such_a_mode(provider: str) -> None:
    """The lane announces that it cannot load and unload models, and what to do instead."""
    settings = LaneSettings("gpu0", provider, "http://127.0.0.1:1", models=("m",), capacity=1)
    async with default_registry().create(settings) as created:
        assert {"load", "unload"} <= (await describe_lane(settings, created)).offer.unsupported.keys()


async def test_only_llama_cpp_keeps_a_kv_cache() -> None:
    """Another provider's lane refuses the setting, since it would have no effect."""
    settings = LaneSettings("gpu0", "ollama", "http://127.0.0.1:1", models=("m",), keep_kv=True)
    async with default_registry().create(settings) as created:
        with pytest.raises(BadRequest):
            await describe_lane(settings, created)
