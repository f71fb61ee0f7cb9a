"""API keys at gateways in front of a real pool: who may ask, what for, and how much at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest
from tests.gateways import door_of
from tests.integration.clients import quick_client
from tests.integration.stand_in import StandIn

from tokenlane.producer.gateway.access.callers import Callers
from tokenlane.producer.gateway.app import gateway_app
from tokenlane.producer.gateway.http.server import serve_asgi
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.access.api_key import ApiKey
from tokenlane.routing.store.access.known_keys import KnownApiKeys
from tokenlane.routing.store.pool import Pool

ALIASES = Policy(aliases={"gpt-*": "planner"})


@asynccontextmanager
async def guarded_gateway(redis_url: str, pool: Pool) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway that asks for the pool's keys, as a client of it."""

    async def why_not_ready() -> str:
        return ""

    async with quick_client(redis_url, agent="gateway") as client:
        callers = Callers(KnownApiKeys(pool.api_keys), this_host_is_trusted=True)
        door = replace(door_of(client, policy=ALIASES), caller_of=callers.caller_of)
        async with (
            serve_asgi(gateway_app(door, why_not_ready), ("127.0.0.1", 0), option="--listen") as url,
            httpx.AsyncClient(base_url=url, timeout=20) as web,
        ):
            yield web


@asynccontextmanager
async def asked(web: httpx.AsyncClient, secret: str, **more: object) -> AsyncIterator[httpx.Response]:
    """A streamed chat, until the block ends."""
    body = {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "hi"}], **more}
    headers = {"authorization": f"Bearer {secret}"}
    async with web.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        yield response


async def test_a_key_gives_a_request_its_agent_role_and_priority(redis_url: str, pool: Pool, worker: StandIn) -> None:
    """The name of the model is an alias here; the key's priority is the highest that the request may ask for."""
    key = ApiKey(name="ci", agent="builds", role="coder", priority="low", in_flight=2, created_s=0)
    secret = await pool.api_keys.add(key)
    async with guarded_gateway(redis_url, pool) as web:
        async with asked(web, secret, service_tier="priority"):
            envelope = (await worker.next_run()).envelope
        async with asked(web, secret, model="default"):
            unnamed = (await worker.next_run()).envelope
    assert (envelope.agent, envelope.role, envelope.priority) == ("builds", "planner", "low")
    assert unnamed.role == "coder"


async def test_the_limit_of_a_key_holds_for_all_gateways_together(redis_url: str, pool: Pool, worker: StandIn) -> None:
    """Whichever gateway and user asks: the second request is refused, until the first has ended. Other keys may ask."""
    secret = await pool.api_keys.add(ApiKey(name="ci", agent="ci", in_flight=1, created_s=0))
    other = await pool.api_keys.add(ApiKey(name="other", agent="ci", created_s=0))
    async with guarded_gateway(redis_url, pool) as one, guarded_gateway(redis_url, pool) as two:
        async with asked(one, secret, user="ann") as first:
            run = await worker.next_run()
            assert first.status_code == 200
            for web in (one, two):
                async with asked(web, secret, user="bob", stream=False) as refused:
                    assert (refused.status_code, int(refused.headers["retry-after"]) >= 1) == (429, True)
            async with asked(two, other):
                await worker.next_run()
            assert await run.complete("done")
        async with asked(two, secret) as second:
            assert (await worker.next_run()).envelope.agent == "ci"
            assert second.status_code == 200


@pytest.mark.parametrize("secret", ["tl-", "tl-unknown"])
async def test_without_a_valid_key_nobody_asks(redis_url: str, pool: Pool, secret: str) -> None:
    """As soon as the pool has a key, even on this host."""
    await pool.api_keys.add(ApiKey(name="old", agent="a", created_s=1, expires_s=2))
    async with guarded_gateway(redis_url, pool) as web, asked(web, secret) as response:
        assert response.status_code == 401
