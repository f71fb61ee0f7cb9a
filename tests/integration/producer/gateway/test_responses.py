"""Responses in the background through two gateways of one pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from tests.gateways import door_of
from tests.integration.clients import link_of, quick_client
from tests.integration.farm import eventually
from tests.integration.lanes import lane_of
from tests.integration.life import PREFIX, raw, state_of, sweep, vanish
from tests.integration.producer.gateway.test_chat_completions import all_ended, town_of
from tests.integration.stand_in import StandIn
from tests.waiting import until

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import Client
from tokenlane.producer.gateway.app import gateway_app
from tokenlane.producer.gateway.http.server import serve_asgi
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.support.tasks import background


@asynccontextmanager
async def gateway(pool: Pool, redis_url: str) -> AsyncIterator[tuple[str, Client]]:
    """A gateway, its URL and its client. The caller's agent is in the header `x-agent`."""

    async def why_not_ready() -> str:
        return ""

    async with quick_client(redis_url, agent="gateway") as client, background() as tasks:
        door = replace(door_of(client, pool=pool), tasks=tasks)
        async with serve_asgi(gateway_app(door, why_not_ready), ("127.0.0.1", 0), option="--listen") as url:
            yield url, client


def sdk(url: str, agent: str = "tester") -> AsyncOpenAI:
    """The client, which tries nothing twice."""
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, default_headers={"x-agent": agent})


async def owner(pool: Pool, request_id: str) -> str:
    """The client that owns the request."""
    return str((await raw(pool).hget(f"{PREFIX}request:{request_id}", "client")).decode())


async def test_another_gateway_serves_it(pool: Pool, worker: StandIn, redis_url: str) -> None:
    """It reads, resumes and cancels what the first was asked for, for the same agent only."""
    async with gateway(pool, redis_url) as (first, _), gateway(pool, redis_url) as (second, _):
        async with sdk(first) as one, sdk(second) as two, sdk(second, "other") as other:
            begun = await one.responses.create(model="role:planner", input="hi", background=True)
            run = await worker.next_run()
            await run.say("one ", "two ")
            for client in (one, two):
                async with asyncio.timeout(10):
                    while (await client.responses.retrieve(begun.id)).output_text != "one two ":
                        await asyncio.sleep(0.01)
            with pytest.raises(openai.NotFoundError):
                await other.responses.retrieve(begun.id)
            numbers = list[int]()
            text = ""
            stream = await two.responses.retrieve(begun.id, stream=True)
            async for event in stream:
                numbers.append(event.sequence_number)
                if event.type == "response.output_text.delta":
                    text += event.delta
                    break
            await stream.close()
            await run.complete("three")
            rest = await one.responses.retrieve(begun.id, stream=True, starting_after=numbers[-1])
            async for event in rest:
                numbers.append(event.sequence_number)
                text += event.delta if event.type == "response.output_text.delta" else ""
            assert text == "one two three"
            assert numbers == sorted(set(numbers))


async def test_cancelling_at_another_gateway(pool: Pool, redis_url: str) -> None:
    """The request is cancelled for the gateway that was asked for it too."""
    async with gateway(pool, redis_url) as (first, _), gateway(pool, redis_url) as (second, _):
        async with sdk(first) as one, sdk(second) as two:
            begun = await one.responses.create(model="role:planner", input="hi", background=True)
            assert (await two.responses.cancel(begun.id)).status == "cancelled"
            async with asyncio.timeout(10):
                while (await one.responses.retrieve(begun.id)).status != "cancelled":
                    await asyncio.sleep(0.01)
            assert await state_of(pool, begun.id.removeprefix("resp_")) == "cancelled"


async def test_a_gateway_that_stops_lets_go(pool: Pool, worker: StandIn, redis_url: str) -> None:
    """What it held goes on, and another gateway holds it from then on, also past the orphan timeout of the first."""
    async with gateway(pool, redis_url) as (second, holder), AsyncExitStack() as stack:
        first, gone = await stack.enter_async_context(gateway(pool, redis_url))
        async with sdk(first) as one, sdk(second) as two:
            begun = await one.responses.create(model="role:planner", input="hi", background=True)
            request_id, client = begun.id.removeprefix("resp_"), link_of(gone).client
            run = await worker.next_run()
            await run.say("one ")
            await stack.aclose()
            stream = await two.responses.retrieve(begun.id, stream=True)
            assert await owner(pool, request_id) == link_of(holder).client
            await vanish(pool, client)
            await sweep(pool)
            await run.complete("two")
            events = [event async for event in stream]
            assert events[-1].type == "response.completed"
            assert events[-1].response.output_text == "one two"


async def test_clients_take_a_request_over_from_each_other(pool: Pool, worker: StandIn, redis_url: str) -> None:
    """Whoever takes it over owns it, until another does; both read on."""
    async with quick_client(redis_url) as first, quick_client(redis_url) as second:
        async with first.chat("hi", role="planner") as stream:
            run = await worker.next_run()
            async with second.attach(stream.request_id) as joined:
                assert await owner(pool, stream.request_id) == link_of(second).client
                await until(lambda: link_of(first).owned_requests == 0)
                await stream.take_over()
                assert await owner(pool, stream.request_id) == link_of(first).client
                await until(lambda: link_of(second).owned_requests == 0)
                await run.complete("done")
                assert (await joined.answer()).text == (await stream.answer()).text == "done"


async def test_a_client_may_leave_at_every_event(redis_url: str, pool: Pool) -> None:
    """Before the first event and after each: nothing stays queued or running."""
    question = {"model": "sim", "input": "hi", "stream": True}
    async with town_of(redis_url, itl_ms=1) as town, httpx.AsyncClient(timeout=30) as web:
        whole = await web.post(f"{town.url}/v1/responses", json=question)
        events = whole.text.count("data: {")
        assert events > 10
        for leaves_after in range(events + 1):
            async with web.stream("POST", f"{town.url}/v1/responses", json=question) as response:
                lines, seen = response.aiter_lines(), 0
                while seen < leaves_after:
                    seen += (await anext(lines)).startswith("data: {")
            await eventually(lambda: all_ended(pool))


async def test_a_failover_is_invisible(redis_url: str, pool: Pool) -> None:
    """The first lane's model server dies in mid-answer: the text has no gap and no repeat."""
    route = RolePolicy(route=(Candidate(lane="bad"), Candidate(lane="gpu0")))
    await pool.policies.write(Policy(roles={"default": route}))

    def ask(url: str) -> str:
        with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as asks:
            with asks.responses.stream(model="sim", input="hi") as stream:
                return stream.get_final_response().output_text

    async with (
        town_of(redis_url) as town,
        Simulator(api="vllm", tokens=6) as bad,
        lane_of(redis_url, LaneSettings("bad", "vllm", bad.url, capacity=4)),
    ):
        bad.faults.extend([FaultScript(cut_after=3)] * 3)
        assert await asyncio.to_thread(ask, town.url) == "w0 w1 w2 w3 w4 w5 "
        await eventually(lambda: all_ended(pool))


async def test_asking_twice_with_one_key(pool: Pool, worker: StandIn, redis_url: str) -> None:
    """A repeated request with the same idempotency key is the same response, also at another gateway."""
    async with gateway(pool, redis_url) as (first, _), gateway(pool, redis_url) as (second, _):
        async with sdk(first) as one, sdk(second) as two:
            headers = {"idempotency-key": "order 7"}
            named = [
                (
                    await client.responses.create(
                        model="role:planner", input="hi", background=True, extra_headers=headers
                    )
                ).id
                for client in (one, two, one)
            ]
            assert len(set(named)) == 1
            run = await worker.next_run()
            await run.complete("done")
            for client in (one, two):
                stream = await client.responses.retrieve(named[0], stream=True)
                events = [event async for event in stream]
                assert events[-1].type == "response.completed"
                assert events[-1].response.output_text == "done"
