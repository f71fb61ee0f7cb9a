"""A client that joins its answer again, at another gateway, with the header `Last-Event-ID`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.gateways import events_of, gateway_of
from tests.integration.clients import quick_client
from tests.integration.farm import Child, Farm, eventually, farm
from tests.integration.life import ENDED, audit, raw
from tests.integration.stand_in import Run, StandIn

from tokenlane.producer.gateway.http import server
from tokenlane.routing.contract.answers import TokenDelta, ToolCallDelta
from tokenlane.routing.contract.errors import Interrupted
from tokenlane.routing.store.pool import Pool

QUESTION: Any = {"model": "m1", "messages": [{"role": "user", "content": "hi"}], "stream": True}
FROM_START = {"last-event-id": ""}
"""What a client sends that wants ids of events."""


@pytest.fixture
async def processes(tmp_path: Path, redis_url: str) -> AsyncIterator[Farm]:
    async with farm(tmp_path, redis_url) as opened:
        yield opened


async def gateway(processes: Farm) -> tuple[Child, str]:
    """A gateway in a process of its own, and its URL."""
    child = await processes.tokenlane("serve", "--port", "0")
    await child.says("/v1")
    (url,) = [word for word in (child.out + child.error).split() if word.startswith("http://127.0.0.1:")]
    return child, url.removesuffix("/v1")


def texts_of(stream: bytes) -> str:
    """The text of the events that came whole."""
    whole, _, _ = stream.rpartition(b"\n\n")
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events_of(whole))


def last_id(stream: bytes) -> str:
    """The id of the last event that came whole."""
    whole, _, _ = stream.rpartition(b"\n\n")
    return [line.removeprefix("id: ") for line in whole.decode().split("\n") if line.startswith("id: ")][-1]


@asynccontextmanager
async def asked(url: str, **headers: str) -> AsyncIterator[httpx.Response]:
    async with (
        httpx.AsyncClient(timeout=30) as web,
        web.stream("POST", f"{url}/v1/chat/completions", json=QUESTION, headers=headers) as response,
    ):
        yield response


async def read_until(response: httpx.Response, pieces: Any, text: str) -> bytes:
    """What comes until the text has come."""
    got = b""
    while text not in texts_of(got):
        got += await anext(pieces)
    return got


async def rest_of(url: str, at: str, run: Run, *more: str) -> bytes:
    """What a client is given that joins at this event, while its worker says more."""
    async with asked(url, **{"last-event-id": at}) as response:
        assert response.status_code == 200
        await run.complete(*more)
        return await response.aread()


async def test_a_killed_gateway_is_followed_by_another(processes: Farm, worker: StandIn, pool: Pool) -> None:
    """Whatever the place: the second gateway sends what the client lacks, no character more."""
    first, url = await gateway(processes)
    async with asked(url, **FROM_START) as response:
        pieces = response.aiter_bytes()
        run = await worker.next_run()
        await run.say("one ", "two ")
        got = await read_until(response, pieces, "two ")
        await first.kill()
    await run.say("three ")
    _, other = await gateway(processes)
    rest = await rest_of(other, last_id(got), run, "four")
    assert texts_of(got) + texts_of(rest) == "one two three four"
    assert rest.endswith(b"data: [DONE]\n\n")

    async def ended() -> bool:
        return set((await audit(raw(pool))).values()) <= set(ENDED)

    await eventually(ended)


async def test_a_gateway_that_is_stopped_is_followed_by_another(
    redis_url: str, worker: StandIn, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart does no more harm than a kill: what is not complete in time goes on for the client that joins again."""
    monkeypatch.setattr(server, "_DRAIN_S", 0)
    async with quick_client(redis_url, agent="b") as other, gateway_of(other, pool=pool) as second:
        async with AsyncExitStack() as until_stopped:
            client = await until_stopped.enter_async_context(quick_client(redis_url, agent="a"))
            first = await until_stopped.enter_async_context(gateway_of(client))
            async with asked(first, **FROM_START) as response:
                pieces = response.aiter_bytes()
                run = await worker.next_run()
                await run.say("one ", "two ")
                got = await read_until(response, pieces, "two ")
                await until_stopped.aclose()
        rest = await rest_of(second, last_id(got), run, "three")
    assert not run.cancelled.is_set()
    assert texts_of(got) + texts_of(rest) == "one two three"


async def test_another_agent_cannot_join(redis_url: str, pool: Pool, worker: StandIn) -> None:
    """Who knows a request's id, as from a log, does not read its answer."""
    async with quick_client(redis_url) as client, gateway_of(client, pool=pool) as url, asked(url) as response:
        run = await worker.next_run()
        request = response.headers["x-tokenlane-request"]
        async with asked(url, **{"x-tokenlane-request": request, "x-agent": "spy"}) as spied:
            assert spied.status_code == 404
        await run.say("secret")
        await run.complete()
        assert texts_of(await response.aread()) == "secret"


async def test_every_place_of_an_answer(redis_url: str, pool: Pool, worker: StandIn) -> None:
    """In the middle of a delta, too: another attempt may have cut the answer into other deltas."""
    deltas = [
        TokenDelta(reasoning="why"),
        TokenDelta(text="ab"),
        TokenDelta(text="cde"),
        TokenDelta(tool_calls=(ToolCallDelta(index=0, id="c", name="look", arguments='{"a"'),)),
        TokenDelta(tool_calls=(ToolCallDelta(index=0, arguments=":1}"),)),
    ]
    size = len("why") + len("abcde") + 1 + len('{"a":1}')
    async with quick_client(redis_url, agent="a") as client, quick_client(redis_url, agent="b") as other:
        async with gateway_of(client) as url, gateway_of(other, pool=pool) as second, asked(url) as response:
            run = await worker.next_run()
            request = response.headers["x-tokenlane-request"]
            await run.send(deltas)
            await run.complete()
            whole = await response.aread()
            for place in range(1, size + 1):
                async with asked(second, **{"last-event-id": f"{request}.{place}"}) as again:
                    assert again.status_code == 200
                    assert heard(whole)[place:] == heard(await again.aread()), place
            async with asked(second, **{"last-event-id": f"{request}.{size + 1}"}) as again:
                assert again.status_code == 502  # the client has more: this is not the answer that it read
                assert Interrupted.code in (await again.aread()).decode()


def heard(stream: bytes) -> str:
    """The characters of an answer as places count them: a tool call's name is one."""
    said = ""
    for event in events_of(stream):
        delta = event["choices"][0]["delta"]
        said += delta.get("reasoning_content", "") + delta.get("content", "")
        for call in delta.get("tool_calls", ()):
            said += ("#" if "name" in call["function"] else "") + call["function"]["arguments"]
    return said


async def test_what_no_gateway_knows_is_told(redis_url: str, worker: StandIn) -> None:
    async with quick_client(redis_url) as client, gateway_of(client) as url, httpx.AsyncClient() as web:
        for header, value, status in (
            ("last-event-id", f"{'0' * 32}.5", 404),
            ("x-tokenlane-request", "0" * 32, 404),
            ("last-event-id", "7", 400),
            ("x-tokenlane-request", "7", 400),
        ):
            response = await web.post(f"{url}/v1/chat/completions", json=QUESTION, headers={header: value})
            assert response.status_code == status
