"""Hooks on workers and in agents, from end to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.hooks import examples
from tests.integration.farm import farm
from tests.integration.lanes import lane_of
from tests.repository import ROOT

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.exit_codes import USAGE
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import Client, HookFailed, TokenDelta, sync
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.hooks.functions import NO_HOOKS, Hooks
from tokenlane.routing.store.pool import Pool

EXAMPLES = examples()
KEY = "sk-abcdefghij0123456789"
PIECES = ("one ", KEY[:8], KEY[8:], " two ", "three")


@asynccontextmanager
async def two_lanes(redis_url: str, pool: Pool, hooks: Hooks = NO_HOOKS) -> AsyncIterator[tuple[Simulator, Simulator]]:
    """Lanes gpu0 and gpu1 with these hooks. Requests of role `r` go to gpu0 first."""
    role = RolePolicy(route=(Candidate(lane="gpu0"), Candidate(lane="gpu1")))
    await pool.policies.write(Policy(roles={"r": role}, patience_ms=0))
    async with Simulator(api="vllm") as first, Simulator(api="vllm") as second:
        settings = [LaneSettings(f"gpu{number}", "vllm", each.url) for number, each in enumerate((first, second))]
        async with lane_of(redis_url, settings[0], hooks=hooks), lane_of(redis_url, settings[1], hooks=hooks):
            yield first, second


def bodies(*simulators: Simulator) -> list[bytes]:
    """The requests of the tests that reached the simulators. The lanes' probes ask for something else."""
    return [received.body for simulator in simulators for received in simulator.log if b'"q"' in received.body]


async def test_an_answer_goes_on_through_the_hook_of_another_worker(pool: Pool, client: Client, redis_url: str) -> None:
    """The words of both parts are counted, positions have no gap, and the prompt has the rules on both lanes."""
    hooks = Hooks(EXAMPLES.count_words, EXAMPLES.add_rules)
    async with two_lanes(redis_url, pool, hooks) as (first, second):
        first.faults.append(FaultScript(pieces=PIECES, cut_after=3))
        second.faults.append(FaultScript(pieces=PIECES))
        async with client.chat("q", role="r") as stream:
            deltas = [delta async for delta in stream]
            answer = await stream.answer()
    assert answer.text == f"{''.join(PIECES)}\n(4 words)"
    assert [delta.position for delta in deltas] == [*range(len(deltas))]
    assert {delta.lane for delta in deltas} == {"gpu0", "gpu1"}
    assert [b"Answer in English." in body for body in bodies(first, second)] == [True, True]


async def test_the_hook_ends_an_answer_and_frees_the_slot(pool: Pool, client: Client, redis_url: str) -> None:
    """The model server's stream is closed, and the answer is complete."""
    async with two_lanes(redis_url, pool, Hooks(EXAMPLES.stop_at_phrase)) as (first, _):
        first.faults.append(FaultScript(pieces=("a ", "Best regards", "b"), hold_after=2))
        answer = await client.complete("q", role="r")
        await first.wait_for(lambda: first.running == 0)
    assert (answer.text, answer.finish_reason, answer.usage.attempts) == ("a ", "stop", 1)


async def test_an_agent_attaches_after_a_position_of_its_hook(pool: Pool, client: Client, redis_url: str) -> None:
    """Another process with the same hook goes on after any delta: nothing is lost, repeated or unmasked."""
    async with two_lanes(redis_url, pool) as (first, _):
        first.faults.append(FaultScript(pieces=PIECES))
        async with Client(redis_url, token_hook=EXAMPLES.mask_keys) as hooked:
            async with hooked.chat("q", role="r") as stream:
                deltas = [delta async for delta in stream]
                assert stream.text == "one *** two three"
            for last in [None, *deltas[:-1]]:
                after = None if last is None else last.position
                async with hooked.attach(stream.request_id, after=after) as joined:
                    rest = [delta async for delta in joined]
                read = "".join(delta.text for delta in deltas if after is not None and delta.position <= after)
                assert read + "".join(delta.text for delta in rest) == "one *** two three"


async def test_the_blocking_client_has_hooks(pool: Pool, redis_url: str) -> None:
    """They are called on its thread."""

    def ask() -> tuple[str, str]:
        with sync.Client(redis_url, token_hook=EXAMPLES.mask_keys, request_hook=EXAMPLES.add_rules) as client:
            with client.chat("q", role="r") as stream:
                streamed = "".join(delta.text for delta in stream)
            return streamed, client.complete("q", role="r").text

    async with two_lanes(redis_url, pool) as (first, _):
        first.faults.extend([FaultScript(pieces=PIECES)] * 2)
        assert await asyncio.to_thread(ask) == ("one *** two three",) * 2
        assert [b"Answer in English." in body for body in bodies(first)] == [True, True]


async def test_a_hook_that_fails_on_a_worker(pool: Pool, client: Client, redis_url: str) -> None:
    """The agent gets the error, with the text so far; no other lane is asked, and the lane goes on working."""

    def broken(delta: TokenDelta) -> TokenDelta:
        if "two" in delta.text:
            raise KeyError(delta.text)
        return delta

    async with two_lanes(redis_url, pool, Hooks(broken)) as (first, second):
        first.faults.append(FaultScript(pieces=PIECES))
        with pytest.raises(HookFailed, match="KeyError") as raised:
            await client.complete("q", role="r")
        assert raised.value.partial == "".join(PIECES[:3])
        assert raised.value.lane == "gpu0"
        assert (await client.complete("q", role="r")).lane == "gpu0"
        assert bodies(second) == []


async def test_a_worker_whose_hook_cannot_be_imported(tmp_path: Path, redis_url: str) -> None:
    """It ends before it joins the pool. One whose hook can be imported serves."""
    async with farm(tmp_path, redis_url) as opened, Simulator() as simulator:
        lane = ("--lane", "gpu0", "--provider", "openai", "--endpoint", simulator.url)
        name = {"TOKENLANE_ADVANCED__TOKEN_HOOK": "filters:stop_at_phrase"}
        ended = await (await opened.tokenlane("worker", *lane, **name)).ended()
        assert ended.code == USAGE
        assert "PYTHONPATH" in ended.error
        assert "TOKENLANE_ADVANCED__TOKEN_HOOK" in ended.error
        await opened.worker("gpu0", simulator, **name, PYTHONPATH=str(ROOT / "docs" / "examples"))
        simulator.faults.append(FaultScript(pieces=("a ", "Best regards", "b")))
        async with Client(redis_url) as client:
            assert (await client.complete("q", role="r")).text == "a "
