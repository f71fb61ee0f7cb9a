"""Two clients that send the same idempotency key get the answer of one request."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from tests.gateways import events_of, gateway_of
from tests.integration.clients import link_of, quick_client
from tests.integration.stand_in import StandIn


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_the_second_is_told_the_id_of_the_first(redis_url: str, worker: StandIn, is_streamed: bool) -> None:
    """In the header and in the body alike, so that `tokenlane requests show` finds it."""
    body = {"model": "m1", "messages": [{"role": "user", "content": "hi"}], "stream": is_streamed}
    async with (
        quick_client(redis_url) as client,
        gateway_of(client) as url,
        httpx.AsyncClient(base_url=url, timeout=20, headers={"Idempotency-Key": "k"}) as web,
    ):
        first = asyncio.create_task(web.post("/v1/chat/completions", json=body))
        run = await worker.next_run()
        second = asyncio.create_task(web.post("/v1/chat/completions", json=body))
        while len([*link_of(client)]) < 2:  # readers of the request
            await asyncio.sleep(0.01)
        await run.say("one")
        await run.complete()
        for response in (await first, await second):
            documents = events_of(response.content) if is_streamed else [response.json()]
            assert response.headers["x-tokenlane-request"] == run.id
            assert {document["id"] for document in documents} == {f"chatcmpl-{run.id}"}
        assert len(worker.runs) == 1
