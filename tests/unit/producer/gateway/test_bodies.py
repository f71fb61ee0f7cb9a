"""Bodies of requests: their size, their time, and JSON that is none. Nothing of a body is quoted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.gateways import gateway_of

from tokenlane.producer.gateway.http import json_body
from tokenlane.producer.testing import MockPool
from tokenlane.routing.contract.requests import ChatRequest

PATHS = ("/v1/chat/completions", "/v1/embeddings")
BROKEN = {
    "empty": b"",
    "no JSON": b'{"secret',
    "no UTF-8": b'{"model": "secret\xff"}',
    "UTF-16": '{"model": "secret"}'.encode("utf-16"),
    "NaN": b'{"temperature": NaN, "secret": 1}',
    "Infinity": b'{"temperature": -Infinity}',
    "a list": b'["secret"]',
    "deep": b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number without end": b'{"seed": ' + b"9" * 10_000 + b"}",
}
WRONG = {
    "deep in a field": b'{"messages": [{"role": "user", "content": "secret"}], "metadata": {"a": '
    + b"[" * 500
    + b"]" * 500
    + b"}}",
    "half a character in a name": b'{"messages": [{"role": "user", "content": "a"}], "model": "\\ud800secret"}',
    "half a character in a text": b'{"messages": [{"role": "user", "content": "secret\\ud800"}], "stream": true}',
    "half a character in a field": b'{"messages": [{"role": "user", "content": "a"}], "\\ud800secret": 1}',
    "half a key": b'{"messages": [{"role": "user", "content": ""}], "logit_bias": {"\\ud800secret": "a"}}',
    "half a character in a user": b'{"messages": [{"role": "user", "content": "a"}], "top_p": 7, "user": "\\ud800"}',
    "too large a number": b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e999}',
    "no messages": b'{"messages": []}',
}


HALF_CHARACTERS = {
    "escaped": b'{"model": "m", "input": "a", "messages": [{"role": "user", "content": "a"}], "user": "\\ud800secret"}',
    "as bytes": b'{"model": "m", "input": "a", "metadata": {"a": "\xed\xa0\x80secret"}}',
    "in a hint": b'{"model": "m", "input": "a", "truncation": "secret\\uDfff"}',
    "in a name": b'{"model": "m", "input": "a", "client_metadata": {"secret\\ud800": 1}}',
}


async def posted(url: str, path: str, body: Any, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=30) as web:
        return await web.post(f"{url}{path}", content=body, headers=headers)


@pytest.mark.parametrize("path", PATHS)
async def test_what_is_no_json_object_is_refused(path: str) -> None:
    async with MockPool() as pool, pool.client() as client, gateway_of(client) as url:
        for body in BROKEN.values():
            response = await posted(url, path, body)
            assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")
            assert "secret" not in response.text


@pytest.mark.parametrize("body", HALF_CHARACTERS.values(), ids=HALF_CHARACTERS)
async def test_half_characters_are_refused_wherever_they_are(body: bytes) -> None:
    """Also in fields that only the response repeats: no model is asked for what cannot be shown."""
    asked: list[ChatRequest] = []

    def note(request: ChatRequest) -> str:
        asked.append(request)
        return "a"

    async with MockPool(note) as pool, pool.client() as client, gateway_of(client) as url:
        for path in ("/v1/responses", "/v1/chat/completions", "/v1/messages", "/v1/embeddings"):
            response = await posted(url, path, body)
            assert response.status_code == 400
            assert "secret" not in response.text
    assert asked == []


async def test_whole_characters_may_be_escaped_in_halves() -> None:
    async with MockPool(lambda request: str(request.messages[0].content)) as pool, pool.client() as client:
        async with gateway_of(client) as url:
            body = b'{"messages": [{"role": "user", "content": "\\ud83d\\ude80 \\\\ud800"}]}'
            answer = (await posted(url, "/v1/chat/completions", body)).json()
    assert answer["choices"][0]["message"]["content"] == "\N{ROCKET} \\ud800"


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
async def test_what_cannot_be_asked_is_refused(body: bytes) -> None:
    async with MockPool() as pool, pool.client() as client, gateway_of(client) as url:
        response = await posted(url, "/v1/chat/completions", body)
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"
        assert "secret" not in response.text
    assert pool.requests == []


async def test_a_body_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it says its size before or comes in pieces of unknown number."""
    monkeypatch.setattr(json_body, "BODY_LIMIT_BYTES", 1000)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100

    async with MockPool() as pool, pool.client() as client, gateway_of(client) as url:
        for path in PATHS:
            for body in (b" " * 1001, pieces()):
                response = await posted(url, path, body)
                assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


async def test_a_body_has_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_body, "_WITHIN_S", 0.01)

    async with MockPool() as pool, pool.client() as client, gateway_of(client) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        async with asyncio.timeout(20):
            assert (await reader.readline()).split()[1] == b"408"
        writer.close()


async def test_a_client_that_leaves_in_its_body_is_no_error() -> None:
    async with MockPool() as pool, pool.client() as client, gateway_of(client) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        response = await posted(url, "/v1/chat/completions", b'{"messages": [{"role": "user", "content": "a"}]}')
        assert response.status_code == 200
        assert client.internal_errors == 0


async def test_paths_without_a_dialect() -> None:
    """The root says what is there; CORS is off; any other path is told as not there."""
    async with MockPool() as pool, pool.client() as client, gateway_of(client) as url, httpx.AsyncClient() as web:
        for path in ("/", "/v1"):
            assert (await web.get(f"{url}{path}")).json()["name"] == "tokenlane"
            assert (await web.head(f"{url}{path}")).status_code == 200
        origin = {"origin": "http://elsewhere", "access-control-request-method": "POST"}
        asked = await web.options(f"{url}/v1/chat/completions", headers=origin)
        assert asked.status_code >= 400
        assert not [name for name in asked.headers if name.startswith("access-control")]
        for path in ("/v1/nothing", "/v1/chat/completions"):
            assert (await web.get(f"{url}{path}")).json()["error"]["code"] == "no_such_path"
