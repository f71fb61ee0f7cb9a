"""One client that asks for several agents: turns, limits and idempotency keys are those of the agent that a call names,
and what becomes of the client becomes of all of them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from tests.documents import examples_of, run_example
from tests.integration.clients import link_of
from tests.integration.life import audit, raw, state_of, sweep, vanish
from tests.integration.stand_in import StandIn, stand_in
from tests.waiting import until

from tokenlane.producer import Client, QueueFull, sync
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool


async def test_agents_of_one_client_take_turns(client: Client, pool: Pool) -> None:
    """Of what one client has asked for a busy agent and then for a quiet one, the quiet one's is not served last."""
    async with AsyncExitStack() as streams:
        for agent in [*["busy"] * 5, "quiet"]:
            await streams.enter_async_context(client.chat("hello", role="planner", agent=agent))
        async with stand_in(pool) as worker:
            served = [(await worker.next_run()).envelope.agent for _ in range(6)]
    assert "quiet" in served[:2]


async def test_an_idempotency_key_is_the_agents(client: Client, worker: StandIn) -> None:
    """One key of two agents is two requests; asked again for the same agent, also by another call, it is the first."""
    async with (
        client.chat("hello", role="planner", agent="agent2", idempotency_key="k") as one,
        client.chat("hello", role="planner", agent="agent3", idempotency_key="k") as two,
        client.chat("hello", role="planner", agent="agent2", idempotency_key="k") as again,
        client.chat("hello", role="planner", idempotency_key="k") as own,
    ):
        assert again.request_id == one.request_id
        assert len({one.request_id, two.request_id, own.request_id}) == 3
        agents = {run.id: run.envelope.agent for run in [await worker.next_run() for _ in range(3)]}
    assert agents == {one.request_id: "agent2", two.request_id: "agent3", own.request_id: "agent1"}


async def test_the_limit_of_requests_in_flight_is_the_agents(client: Client, pool: Pool) -> None:
    """An agent that has as many as it may keeps no other agent of the same client from asking."""
    await pool.policies.write(Policy(in_flight=1))
    async with client.chat("one", role="planner", agent="agent2"), client.chat("one", role="planner", agent="agent3"):
        with pytest.raises(QueueFull, match="'agent2'"):
            await client.complete("two", role="planner", agent="agent2")


async def test_a_client_that_vanishes_takes_the_requests_of_all_its_agents_along(
    client: Client, pool: Pool, worker: StandIn, redis_url: str
) -> None:
    """A beat is the client's. When it ends, what it asked for any of its agents is cancelled, and what another client
    asked for one of them is not."""
    async with (
        Client(redis_url, agent="agent2") as other,
        client.chat("hello", role="planner", agent="agent2") as two,
        client.chat("hello", role="planner", agent="agent3") as three,
        other.chat("hello", role="planner") as kept,
    ):
        runs = {run.id: run for run in [await worker.next_run() for _ in range(3)]}
        await vanish(pool, link_of(client).client)
        await sweep(pool)
        for gone in (two, three):
            async with asyncio.timeout(20):
                await runs[gone.request_id].cancelled.wait()
        assert not runs[kept.request_id].cancelled.is_set()
        assert await state_of(pool, kept.request_id) == "running"
        await runs[kept.request_id].complete("a")
        assert (await kept.answer()).text == "a"


async def test_code_that_is_not_asynchronous_names_agents_too(redis_url: str, worker: StandIn) -> None:
    """A call of the client for threads is for the agent that it names."""

    def ask() -> str:
        with sync.Client(redis_url, agent="agent1") as client:
            return client.complete("hello", role="planner", agent="agent2").text

    asked = asyncio.create_task(asyncio.to_thread(ask))
    one = await worker.next_run()
    await one.complete("a")
    assert (await asked, one.envelope.agent) == ("a", "agent2")


async def test_the_example_of_the_docs(client: Client, worker: StandIn, pool: Pool) -> None:
    """Each user of a service is an agent of its own."""
    (code,) = examples_of("agents")["One process, many agents"]
    asked = asyncio.create_task(run_example(code, client=client, questions=["a", "b"], asyncio=asyncio))
    runs = [await worker.next_run() for _ in range(2)]
    for one in runs:
        await one.complete(str(one.request.messages[0].content).upper())
    answers = (await asked)["answers"]
    assert [answer.text for answer in answers] == ["A", "B"]
    assert {one.envelope.agent for one in runs} == {"user-0", "user-1"}
    await until(lambda: not list(link_of(client)))
    await audit(raw(pool))
