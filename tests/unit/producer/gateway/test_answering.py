"""What all dialects share: statuses and errors before the first byte and after it, pings, and clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from tests.gateways import door_of, events_of, gateway_of
from tests.waiting import until

from tokenlane.producer.gateway import answering
from tokenlane.producer.gateway.app import gateway_app
from tokenlane.producer.gateway.door import Door
from tokenlane.producer.gateway.http.outlet import Pauses
from tokenlane.producer.testing import MockPool
from tokenlane.routing.contract import errors
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.decide.policy import Policy

QUESTION: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STATUSES: list[tuple[LlmError, int, type[openai.APIStatusError]]] = [
    (errors.BadRequest("no"), 400, openai.BadRequestError),
    (errors.ContextTooLong("no"), 400, openai.BadRequestError),
    (errors.ModelNotFound("no"), 404, openai.NotFoundError),
    (errors.DeadlineExceeded("no"), 408, openai.APIStatusError),
    (errors.QueueFull("no", retry_after_s=2.5), 429, openai.RateLimitError),
    (errors.ProviderDown("no"), 503, openai.InternalServerError),
    (errors.Unauthorized("no"), 502, openai.InternalServerError),
]


def sdk(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(("error", "status", "kind"), STATUSES, ids=[error.code for error, *_ in STATUSES])
async def test_an_error_before_the_first_byte_has_a_status(
    error: LlmError, status: int, kind: type[openai.APIStatusError], is_streamed: bool
) -> None:
    """The SDK raises the exception of the status, with tokenlane's code and when to ask again."""

    def fail(_: ChatRequest) -> str:
        raise error

    async with MockPool(fail) as pool, pool.client() as client, gateway_of(client) as url, sdk(url) as asks:
        with pytest.raises(kind) as caught:
            await asks.chat.completions.create(**QUESTION, stream=is_streamed)
    assert (caught.value.status_code, caught.value.code) == (status, error.code)
    assert caught.value.response.headers.get("retry-after") == (None if error.retry_after_s is None else "3")
    assert caught.value.response.headers["x-should-retry"] == ("true" if status in (429, 503) else "false")


async def test_an_error_after_tokens_is_an_event() -> None:
    """The stream neither ends as if the answer were complete, nor is it cut."""

    async def fail(_: ChatRequest) -> AsyncIterator[str]:
        yield "a"
        yield "b"
        raise errors.ProviderDown("gone")

    texts: list[str] = []
    async with MockPool(fail) as pool, pool.client() as client, gateway_of(client) as url, sdk(url) as asks:
        stream: Any = await asks.chat.completions.create(**QUESTION, stream=True)

        async def read() -> None:
            async for chunk in stream:
                texts.append(chunk.choices[0].delta.content or "")

        with pytest.raises(openai.APIError) as caught:
            await read()
        async with httpx.AsyncClient() as web:
            response = await web.post(f"{url}/v1/chat/completions", json={**QUESTION, "stream": True})
    assert ("".join(texts), caught.value.code) == ("ab", "interrupted")
    assert "error" in events_of(response.content)[-1]
    assert b"[DONE]" not in response.content


async def test_the_first_byte_comes_early_and_pings_come_often() -> None:
    """By default within 100 ms and every 10 s. A client that waits for long is sent comments, then its answer."""
    assert (Pauses().first_byte_s, Pauses().ping_every_s) < (0.1, 10)
    assert Pauses().ping_every_s < 10
    enough = asyncio.Event()

    async def wait(_: ChatRequest) -> str:
        await enough.wait()
        return "at last"

    pings, rest = 0, b""
    async with MockPool(wait) as pool, pool.client() as client, gateway_of(client, pauses=Pauses(0, 0.001)) as url:
        async with (
            httpx.AsyncClient(timeout=20) as web,
            web.stream("POST", f"{url}/v1/chat/completions", json={**QUESTION, "stream": True}) as response,
        ):
            assert response.headers["x-accel-buffering"] == "no"
            async for piece in response.aiter_bytes():
                rest += piece
                pings += piece.count(b"\n: ") + piece.startswith(b": ")
                if pings >= 200:  # a half hour, at one in 9 s
                    enough.set()
    assert "at last" in "".join(event["choices"][0]["delta"].get("content", "") for event in events_of(rest))


async def test_a_whole_answer_that_waits_begins_with_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK reads it as ever. If it fails then, its status is taken back by the end that is missing."""
    monkeypatch.setattr(answering, "_QUIET_S", 0)
    enough = asyncio.Event()

    async def wait(request: ChatRequest) -> str:
        await enough.wait()
        if request.seed:
            raise errors.ProviderDown("gone")
        return "at last"

    async with (
        MockPool(wait) as pool,
        pool.client() as client,
        gateway_of(client, pauses=Pauses(0, 0.001)) as url,
        httpx.AsyncClient(timeout=20) as web,
    ):
        for seed in (0, 1):
            enough.clear()
            body = b""
            request = web.stream("POST", f"{url}/v1/chat/completions", json={**QUESTION, "seed": seed})
            ended = True
            async with request as response:
                try:
                    async for piece in response.aiter_bytes():
                        body += piece
                        if len(body) > 50:
                            enough.set()
                except httpx.RemoteProtocolError:
                    ended = False
            assert body.startswith(b" ")
            assert ended is (seed == 0)
            assert json.loads(body)["error" if seed else "choices"]
        async with sdk(url) as asks:
            got = await asks.chat.completions.create(**QUESTION)
            assert got.choices[0].message.content == "at last"


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_client_that_leaves_while_it_waits_cancels(is_streamed: bool) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def wait(_: ChatRequest) -> str:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return ""

    async with MockPool(wait) as pool, pool.client() as client, gateway_of(client) as url:
        async with sdk(url) as asks:
            asking = asyncio.create_task(asks.chat.completions.create(**QUESTION, stream=is_streamed))
            await asked.wait()
            if is_streamed:
                stream: Any = await asking
                await stream.close()
            asking.cancel()
            async with asyncio.timeout(20):
                await left.wait()


@pytest.mark.parametrize("pieces", [0, 1, 20])
async def test_a_client_that_does_not_read_is_given_up(pieces: int) -> None:
    """The gateway's side of its connection blocks; the request ends, and so does the response."""
    left = asyncio.Event()

    async def flood(_: ChatRequest) -> AsyncIterator[str]:
        try:
            while True:
                yield "x" * 100_000
        finally:
            left.set()

    async with MockPool(flood) as pool, pool.client() as client:
        app = gateway_app(door_of(client, pauses=Pauses(0, 0.001, 0.01)), lambda: asyncio.sleep(0, ""))
        body = json.dumps({**QUESTION, "stream": True}).encode()
        messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": body, "more_body": False})

        taken = 0

        async def send(message: Any) -> None:
            nonlocal taken
            taken += "body" in message
            if taken > pieces:
                await asyncio.Event().wait()

        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [], "query_string": b""}
        async with asyncio.timeout(20):
            await app(scope, messages.get, send)
            await left.wait()


async def test_a_pool_that_does_not_answer_is_a_status() -> None:
    """Also when its policy cannot be read."""

    async def policy() -> Policy:
        raise errors.PoolUnavailable("away")

    async with MockPool() as pool, pool.client() as client:
        door = door_of(client)
        app = gateway_app(Door(client, door.caller_of, policy), lambda: asyncio.sleep(0, ""))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as web:
            for path, body in (("chat/completions", QUESTION), ("embeddings", {"input": "a"})):
                response = await web.post(f"/v1/{path}", json=body)
                assert (response.status_code, response.json()["error"]["code"]) == (503, "pool_unavailable")


async def test_headers_become_options() -> None:
    """A key against repeats, a time to live, and the session of a coding agent."""
    headers = {"idempotency-key": "step-3", "x-tokenlane-time-to-live-ms": "5000", "session-id": "s1"}
    async with MockPool() as pool, pool.client() as client, gateway_of(client) as url, sdk(url) as asks:
        await asks.chat.completions.create(**QUESTION, extra_headers=headers)
        with pytest.raises(openai.BadRequestError):
            await asks.chat.completions.create(**QUESTION, extra_headers={"x-tokenlane-time-to-live-ms": "soon"})
    (request,) = pool.requests
    assert (request.idempotency_key, request.time_to_live_ms, request.conversation) == ("step-3", 5000, "s1")


async def test_a_bug_is_told_without_its_words() -> None:
    """The gateway counts it; the client learns nothing of it."""
    async with MockPool() as pool, pool.client() as client, gateway_of(client) as url, sdk(url) as asks:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tokenlane.producer.gateway.chat_completions.dialect.completion", lambda *_: 1 / 0)
            with pytest.raises(openai.InternalServerError) as caught:
                await asks.chat.completions.create(**QUESTION)
        assert caught.value.code == "internal_error"
        assert "zero" not in str(caught.value)
        await until(lambda: client.internal_errors == 1)
