"""An answer that breaks off after its first token goes on, on a lane that can continue it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import groupby
from typing import Literal

import pytest
from tests.integration.clients import quick_client
from tests.integration.lanes import lane_of

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import Client, Interrupted, ModelNotFound
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import Pool

TEXT = "".join(f"w{number} " for number in range(16))
CUT = FaultScript(cut_after=5)


@asynccontextmanager
async def lanes(redis_url: str, *servers: tuple[str, Simulator]) -> AsyncIterator[None]:
    """Serve a lane of each provider and simulator: gpu0, gpu1 and so on. Providers probe their servers first."""
    async with AsyncExitStack() as stack:
        for number, (provider, simulator) in enumerate(servers):
            await stack.enter_async_context(simulator)
            settings = LaneSettings(f"gpu{number}", provider, simulator.url)
            await stack.enter_async_context(lane_of(redis_url, settings))
        yield


async def write_policy(pool: Pool, continue_with: Literal["same-model", "any"] = "same-model") -> None:
    """Route the role to gpu0 first."""
    route = (Candidate(lane="gpu0"), Candidate(lane="gpu1"))
    role = RolePolicy(route=route, continue_with=continue_with)
    await pool.policies.write(Policy(roles={"r": role}, patience_ms=0))


def prefills(simulator: Simulator) -> Sequence[str]:
    """What each attempt asked the model server to continue. The probes ask for something else."""
    return [received.prefill for received in simulator.log if b'"q"' in received.body]


async def test_another_lane_with_the_same_model_continues(pool: Pool, client: Client, redis_url: str) -> None:
    """The text is the undisturbed one, its positions have no gap, and it names the attempts and both lanes."""
    await write_policy(pool)
    first, second = Simulator(api="vllm"), Simulator(api="vllm")
    async with lanes(redis_url, ("vllm", first), ("vllm", second)):
        first.faults.append(CUT)
        async with client.chat("q", role="r") as stream:
            deltas = [delta async for delta in stream]
            answer = await stream.answer()
    assert "".join(delta.text for delta in deltas) == answer.text == TEXT
    assert [delta.position for delta in deltas] == list(range(len(deltas)))
    assert [lane for lane, _ in groupby(delta.lane for delta in deltas)] == ["gpu0", "gpu1"]
    assert answer.usage.attempts == 2
    assert 16 <= (answer.usage.completion_tokens or 0) <= 17, "the cut may split a token in two"
    (prefill,) = prefills(second)
    assert prefill
    assert TEXT.startswith(prefill)
    (record,) = await pool.records.read([stream.request_id])
    broken, last = record.attempts
    assert (broken.lane, broken.ended_by) == ("gpu0", "provider_down")
    assert (last.lane, last.ended_by) == ("gpu1", "completed")


async def test_a_client_that_attaches_later_gets_the_whole_answer(pool: Pool, client: Client, redis_url: str) -> None:
    """The worker that continued the answer replays the part that it was handed over, though another lane wrote it."""
    await write_policy(pool)
    first, second = Simulator(api="vllm"), Simulator(api="vllm")
    async with lanes(redis_url, ("vllm", first), ("vllm", second)):
        first.faults.append(CUT)
        async with client.chat("q", role="r") as stream:
            read = [delta async for delta in stream]
        broken_at = next(delta.position for delta in read if delta.lane == "gpu1")
        async with quick_client(redis_url) as other:
            async with other.attach(stream.request_id) as joined:
                deltas = [delta async for delta in joined]
            async with other.attach(stream.request_id, after=broken_at) as joined:
                rest = [delta.text async for delta in joined]
    assert "".join(delta.text for delta in deltas) == TEXT
    assert [(delta.position, delta.lane) for delta in deltas[:2]] == [(broken_at - 1, "gpu0"), (broken_at, "gpu1")]
    assert "".join(rest) == "".join(delta.text for delta in read if delta.position > broken_at)


async def test_the_same_lane_continues_if_there_is_no_other(pool: Pool, client: Client, redis_url: str) -> None:
    """A lane that failed is avoided only while another may continue the answer."""
    await write_policy(pool)
    first, plain = Simulator(api="vllm"), Simulator(api="openai")
    async with lanes(redis_url, ("vllm", first), ("openai", plain)):
        first.faults.extend([CUT, FaultScript(cut_after=4)])
        answer = await client.complete("q", role="r")
    assert (answer.text, answer.lane, answer.usage.attempts) == (TEXT, "gpu0", 3)
    assert prefills(plain) == []


@pytest.mark.parametrize("continue_with", ["same-model", "any"])
async def test_another_model_continues_if_the_policy_allows_it(
    pool: Pool, client: Client, redis_url: str, continue_with: Literal["same-model", "any"]
) -> None:
    """Otherwise the request ends at once, since the model's only lane cannot continue an answer."""
    await write_policy(pool, continue_with)
    plain, able = Simulator(api="openai", models=["m1"]), Simulator(api="vllm", models=["m2"])
    async with lanes(redis_url, ("openai", plain), ("vllm", able)):
        plain.faults.append(CUT)
        if continue_with == "any":
            answer = await client.complete("q", role="r")
            assert (answer.text, answer.lane, answer.model) == (TEXT, "gpu1", "m2")
            return
        with pytest.raises(Interrupted, match="m1") as raised:
            await client.complete("q", role="r")
    assert raised.value.partial
    assert TEXT.startswith(raised.value.partial)
    assert prefills(able) == []


async def test_an_answer_begins_anew_if_its_agent_allows_that(pool: Pool, client: Client, redis_url: str) -> None:
    """If no lane can continue it, the first delta of the new answer says that the text so far is void."""
    await write_policy(pool)
    first, second = Simulator(models=["m1"]), Simulator(models=["m2"])
    async with lanes(redis_url, ("openai", first), ("openai", second)):
        first.faults.append(CUT)
        async with client.chat("q", role="r", on_interrupt="restart") as stream:
            deltas = [delta async for delta in stream]
            answer = await stream.answer()
    anew = next(number for number, delta in enumerate(deltas) if delta.restarted)
    assert anew > 0
    assert "".join(delta.text for delta in deltas[anew:]) == answer.text == TEXT
    assert (deltas[anew].position, deltas[anew].lane, answer.usage.attempts) == (0, "gpu1", 2)


async def test_a_long_answer_is_continued(pool: Pool, client: Client, redis_url: str) -> None:
    """It is handed over in pieces, and its body is larger than aiohttp likes to send at once."""
    await write_policy(pool)
    pieces = tuple(f"{number:04d}{'x' * 2000} " for number in range(1000))
    first, second = Simulator(api="vllm"), Simulator(api="vllm")
    async with lanes(redis_url, ("vllm", first), ("vllm", second)):
        first.faults.append(FaultScript(pieces=pieces, cut_after=990))
        second.faults.append(FaultScript(pieces=pieces))
        answer = await client.complete("q", role="r")
    assert answer.text == "".join(pieces)
    assert (answer.lane, answer.usage.attempts) == ("gpu1", 2)
    assert len(prefills(second)[0]) > 1 << 20


async def test_a_lane_that_has_lost_its_model_is_passed_over(pool: Pool, client: Client, redis_url: str) -> None:
    """The other lane begins the answer, or continues it. If no lane has the model, the error says so."""
    await write_policy(pool)
    first, second = Simulator(api="lmstudio"), Simulator(api="lmstudio")
    lost = FaultScript(unloaded=True)
    async with lanes(redis_url, ("lmstudio", first), ("lmstudio", second)):
        first.faults.append(lost)
        answer = await client.complete("q", role="r")
        assert (answer.text, answer.lane, answer.usage.attempts) == (TEXT, "gpu1", 2)
        first.faults.append(CUT)
        second.faults.append(lost)
        answer = await client.complete("q", role="r")
        assert (answer.text, answer.lane, answer.usage.attempts) == (TEXT, "gpu0", 3)
        first.faults.extend([CUT, lost])
        second.faults.extend([lost, lost])
        with pytest.raises(Interrupted) as raised:
            await client.complete("q", role="r")
    assert isinstance(raised.value.__cause__, ModelNotFound)
    assert raised.value.partial
