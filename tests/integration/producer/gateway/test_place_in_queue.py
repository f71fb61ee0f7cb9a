"""What a client is told of a request that waits."""

from __future__ import annotations

import httpx
from tests.gateways import gateway_of
from tests.integration.clients import quick_client
from tests.integration.life import ROLE, sweep
from tests.integration.producer.test_waiting import filled

from tokenlane.producer.gateway.http.outlet import Pauses
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.store.pool import Pool


async def test_the_headers_have_the_place(redis_url: str, pool: Pool) -> None:
    """If the client's beat has told it before the first byte: its position, the estimate, and the words for both."""
    await filled(pool, new_id())
    await sweep(pool)  # by a router, without which nobody knows when requests start
    body = {"model": f"role:{ROLE}", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with (
        quick_client(redis_url) as client,
        gateway_of(client, pauses=Pauses(first_byte_s=2)) as url,
        httpx.AsyncClient(base_url=url, timeout=20) as web,
        web.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        assert response.headers["x-tokenlane-position"] == "1"
        assert int(response.headers["x-tokenlane-starts-in-ms"]) > 0
        assert "1 of 1" in response.headers["x-tokenlane-waiting"]
        assert (await anext(response.aiter_raw())).startswith((b": ", b"data: "))
