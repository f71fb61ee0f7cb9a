"""A server that means harm is cut off with a clear error: in time, in little memory, and nothing else is disturbed.

The servers here are bare sockets, so that they can say anything.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.fake_server import answer_of, ask

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import LlmError, ProviderDown, Timeout, UnreadableAnswer
from tokenlane.worker.providers import LlmProvider, default_registry
from tokenlane.worker.providers.http.provider import MAX_DOCUMENT_BYTES

Serve = Callable[[asyncio.StreamWriter], Awaitable[None]]
KINDS = {"openai": "text/event-stream", "ollama": "application/x-ndjson"}
MIB = 1 << 20
MOST_MEMORY = 120 * MIB
"""What one answer may take: the limit of an answer, a few copies of the limit of a line, and a decompressed chunk."""


@asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[str]:
    """A server that reads a request's head and then does as it likes; its URL. It ends when the client goes."""
    serving: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            await reader.readuntil(b"\r\n\r\n")
            await serve(writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            serving.discard(task)
            writer.transport.abort()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        for task in serving:
            task.cancel()
        if serving:
            await asyncio.wait(serving)


def head(name: str, *headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Type: {KINDS[name]}", *headers, "", ""]).encode()


def endlessly(block: bytes, before: bytes = b"", pause_s: float = 0) -> Serve:
    """Sends a block again and again."""

    async def serve(writer: asyncio.StreamWriter) -> None:
        writer.write(before)
        while True:
            writer.write(block)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return serve


def once(said: bytes) -> Serve:
    """Sends this and hangs up."""

    async def serve(writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()

    return serve


def on(url: str, name: str, timeout_s: float = 30) -> LlmProvider:
    lane = LaneSettings("gpu0", name, url)
    return default_registry().create(replace(lane, first_token_timeout_s=timeout_s, token_timeout_s=timeout_s))


async def cut_off(serve: Serve, name: str, timeout_s: float = 30) -> LlmError:
    """The error a chat ends in; the memory it took is bounded."""
    async with server(serve) as url, on(url, name, timeout_s) as provider:
        tracemalloc.start()
        try:
            with pytest.raises(LlmError) as raised:
                await answer_of(provider, ask())
            assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
        finally:
            tracemalloc.stop()
    assert (raised.value.provider, raised.value.lane, raised.value.model) == (name, "gpu0", "m")
    return raised.value


@pytest.fixture(params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    """A dialect."""
    found: str = request.param
    return found


async def test_headers_without_end(name: str) -> None:
    """They are cut off by their number or size, not by the patience of the lane."""
    many = endlessly(b"X-A: b\r\n" * 100, b"HTTP/1.1 200 OK\r\n")
    assert type(await cut_off(many, name)) is ProviderDown
    long = endlessly(b"x" * 10_000, b"HTTP/1.1 200 OK\r\nX-A: ")
    assert type(await cut_off(long, name)) is ProviderDown


async def test_a_line_without_end(name: str) -> None:
    """It is cut off at the limit of a line."""
    error = await cut_off(endlessly(b"x" * 100_000, head(name) + b"data: {"), name)
    assert type(error) is UnreadableAnswer
    assert not error.retryable
    assert "larger than" in error.message


async def test_an_event_of_endless_lines() -> None:
    """Lines that each are short and never make an event are cut off too."""
    error = await cut_off(endlessly(b"data: x\n" * 1000, head("openai")), "openai")
    assert "larger than" in error.message


async def test_an_answer_without_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deltas that never end are cut off at the limit of an answer."""
    monkeypatch.setattr("tokenlane.worker.providers.http.provider.MAX_ANSWER_BYTES", MIB)
    event = json.dumps({"choices": [{"delta": {"content": "x" * 1000}}]}).encode()
    line = json.dumps({"message": {"content": "x" * 1000}}).encode() + b"\n"
    block = line if name == "ollama" else b"data: " + event + b"\n\n"
    error = await cut_off(endlessly(block * 10, head(name)), name)
    assert "larger than" in error.message


async def test_what_keeps_a_connection_open_for_ever(name: str) -> None:
    """Comments and empty lines are no tokens: the lane's patience ends."""
    ping = endlessly(b"\n" if name == "ollama" else b": ping\n\n", head(name), 0.01)
    assert type(await cut_off(ping, name, 0.2)) is Timeout


@pytest.mark.parametrize("begin", ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nX-A: "])
async def test_a_head_that_drips(begin: str, name: str) -> None:
    """A byte at a time: the lane's patience ends."""
    drip = endlessly(b"a", begin.encode(), 0.01)
    assert type(await cut_off(drip, name, 0.2)) in (Timeout, ProviderDown)


async def test_a_body_that_drips(name: str) -> None:
    """A byte at a time of a line that never ends: bytes are no tokens."""
    assert type(await cut_off(endlessly(b"a", head(name) + b"data: ", 0.01), name, 0.2)) is Timeout


async def test_interim_answers_without_end(name: str) -> None:
    """A server that only ever says that it goes on: the lane's patience ends."""
    going_on = endlessly(b"HTTP/1.1 102 Processing\r\n\r\n", b"", 0.001)
    assert type(await cut_off(going_on, name, 0.2)) in (Timeout, ProviderDown)


@pytest.mark.parametrize("codings", ["gzip", "deflate", "gzip, gzip", "gzip, gzip, gzip", "br", "zstd", "x-unknown"])
async def test_a_bomb(codings: str, name: str) -> None:
    """What grows a thousandfold is cut off at the limit; what is packed twice would grow a millionfold, and is not
    unpacked at all."""
    packed = bytes(64 * MIB)
    for coding in codings.split(", "):
        packed = zlib.compress(packed, 9) if coding == "deflate" else gzip.compress(packed, 9)
    error = await cut_off(once(head(name, f"Content-Encoding: {codings}") + packed), name)
    assert type(error) is (UnreadableAnswer if codings in ("gzip", "deflate") else ProviderDown)
    assert not error.retryable


async def test_what_is_packed_once_is_understood(name: str) -> None:
    """A proxy that compresses, though nobody asked, does no harm."""
    said = {
        "ollama": b'{"model": "m", "message": {"content": "a"}, "done": true}\n',
        "openai": b'data: {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n',
    }
    packed = gzip.compress(said[name])
    async with server(once(head(name, "Content-Encoding: gzip") + packed)) as url, on(url, name) as provider:
        assert await answer_of(provider, ask()) == "a"


async def test_cookies_are_not_kept(name: str) -> None:
    """A server's cookies fill no memory and go nowhere."""
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readuntil(b"\r\n\r\n"))
        cookies = [f"Set-Cookie: c{place}=v; Path=/" for place in range(50)]
        writer.write(head(name, "Connection: close", *cookies))
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening, on(f"http://localhost:{listening.sockets[0].getsockname()[1]}", name) as provider:
        for _ in range(2):
            with pytest.raises(LlmError):
                await answer_of(provider, ask())
    assert len(got) == 2
    assert b"cookie" not in b"".join(got).lower()


async def test_a_page_without_end(name: str) -> None:
    """So are the pages that are asked for models, health and capacity."""
    page = endlessly(b" " * 100_000, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    async with server(page) as url, on(url, name) as provider:
        for asking in (provider.models(), provider.healthy()):  # type: ignore[attr-defined] # both tell
            with pytest.raises(ProviderDown, match=str(MAX_DOCUMENT_BYTES)):
                await asking


HEADS = st.sampled_from(
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 500 \r\nRetry-After: \xff\r\n\r\n",
        b"HTTP/1.0 301 x\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
    ]
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(HEADS, st.binary(max_size=200), st.sampled_from(["openai", "lmstudio"]))
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", b"", "openai")
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"fffffffffffffffff\r\n", "openai")
def test_whatever_bytes_a_server_sends(begin: bytes, rest: bytes, name: str) -> None:
    """No other error comes out than ours."""

    async def asked() -> None:
        async with server(once(begin + rest)) as url, on(url, name, 5) as provider:
            with pytest.raises(LlmError):
                await answer_of(provider, ask())

    asyncio.run(asked())
