"""What a provider makes of answers whose head, pace or end is unlike what it asked for."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from struct import pack
from typing import Any

import pytest
from tests.fake_server import Reply, answer_of, ask, driven, fake_server, ndjson, sse

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import BadRequest, LlmError, ModelNotFound, Timeout, UnreadableAnswer
from tokenlane.worker.providers import LlmProvider, default_registry

Serve = Callable[[asyncio.StreamWriter], Awaitable[None]]
CHAT = "POST /v1/chat/completions"
KINDS = {"openai": "text/event-stream", "ollama": "application/x-ndjson"}


def piece(name: str, content: str | None, *, end: bool = False, **more: object) -> bytes:
    """A piece in the dialect; None: a role alone."""
    message = {"role": "assistant", "content": content or ""}
    if name == "ollama":
        return json.dumps({"model": "m", "message": message, "done": end, **more}).encode() + b"\n"
    chunk = {
        "model": "m",
        "choices": [{"index": 0, "delta": message, "finish_reason": "stop" if end else None}],
        **more,
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


@asynccontextmanager
async def talking(
    name: str, serve: Serve, *, first_token_timeout_s: float = 60, token_timeout_s: float = 60
) -> AsyncIterator[LlmProvider]:
    """A provider on a server that reads a question and answers as it likes, until the client goes."""
    serving: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {KINDS[name]}\r\nConnection: close\r\n\r\n".encode())
            await serve(writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            serving.discard(task)
            writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        lane = LaneSettings(
            "gpu0",
            name,
            f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
            first_token_timeout_s=first_token_timeout_s,
            token_timeout_s=token_timeout_s,
        )
        async with default_registry().create(lane) as provider:
            yield provider
        for task in serving:
            task.cancel()
        if serving:
            await asyncio.wait(serving)


@pytest.mark.parametrize("name", KINDS)
async def test_a_role_is_no_first_token(name: str) -> None:
    """Until a first word, the patience for a first token holds, however many empty pieces come; after it, the other."""

    async def long_prompt(writer: asyncio.StreamWriter) -> None:
        for _ in range(5):
            writer.write(piece(name, None))
            await writer.drain()
            await asyncio.sleep(0.1)
        writer.write(piece(name, "hi", end=True))

    async with talking(name, long_prompt, first_token_timeout_s=60, token_timeout_s=0.05) as provider:
        assert await answer_of(provider, ask()) == "hi"

    async def silent_after(writer: asyncio.StreamWriter) -> None:
        writer.write(piece(name, None) + piece(name, "hi"))
        await asyncio.sleep(60)

    async with talking(name, silent_after, first_token_timeout_s=60, token_timeout_s=0.05) as provider:
        with pytest.raises(Timeout, match=r"\b0\.05 s"):
            await answer_of(provider, ask())


@pytest.mark.parametrize("name", KINDS)
async def test_roles_for_ever_are_no_answer(name: str) -> None:
    """Empty pieces do not prolong the patience for a first token."""

    async def roles(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(piece(name, None))
            await writer.drain()
            await asyncio.sleep(0.01)

    async with talking(name, roles, first_token_timeout_s=0.3, token_timeout_s=60) as provider:
        with pytest.raises(Timeout, match=r"\b0\.3 s"):
            await answer_of(provider, ask())


@pytest.mark.parametrize("name", KINDS)
async def test_a_server_that_ignores_stop_is_left(name: str) -> None:
    """The answer ends before the stop word, and the server, which would go on for ever, is not read any further."""
    left = asyncio.Event()

    async def endless(writer: asyncio.StreamWriter) -> None:
        try:
            for said in ("One st", "op", *(["two"] * 100_000)):
                writer.write(piece(name, said))
                await writer.drain()
                await asyncio.sleep(0.01)
        except ConnectionError:
            left.set()
            raise

    async with talking(name, endless) as provider:
        deltas = [delta async for delta in provider.chat(ask(stop=["stop"]), "m")]
        assert "".join(delta.text for delta in deltas) == "One "
        assert deltas[-1].finish_reason == "stop"
        assert deltas[-1].usage is not None
        async with asyncio.timeout(30):
            await left.wait()


async def test_the_stop_word_is_kept_where_it_is_asked_for() -> None:
    """vLLM's option to have it in the answer is obeyed."""
    said = sse({"choices": [{"delta": {"content": "One END"}, "finish_reason": "stop"}]})
    async with driven("openai", {CHAT: said}) as (provider, _):
        kept = ask(stop="END", extra={"include_stop_str_in_output": True})
        assert await answer_of(provider, kept) == "One END"
        assert await answer_of(provider, ask(stop="END")) == "One "


async def test_a_server_that_calls_each_chunk_the_last_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The short wait for a usage behind the end does not hold where the answer goes on behind it."""
    monkeypatch.setattr("tokenlane.worker.providers.http.deadlines.USAGE_GRACE_S", 0.2)

    async def slowly(writer: asyncio.StreamWriter) -> None:
        writer.write(piece("openai", "One", end=True) + piece("openai", " two", end=True))
        await writer.drain()
        await asyncio.sleep(0.6)
        writer.write(piece("openai", " three", end=True))

    async with talking("openai", slowly, token_timeout_s=60) as provider:
        assert await answer_of(provider, ask()) == "One two three"


PAGE = {"model": "m", "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}
STREAM = sse({"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]}).body
LINE = {"message": {"content": "hi"}, "done": True}


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("openai", Reply(PAGE)),
        ("openai", Reply(STREAM, kind="application/json")),
        ("openai", Reply(STREAM, kind="text/plain; charset=utf-8")),
        ("openai", Reply(STREAM, kind="")),
        ("ollama", Reply(LINE)),
        ("ollama", Reply(ndjson(LINE).body, kind="text/event-stream")),
        ("ollama", sse(LINE)),
    ],
)
async def test_what_an_answer_is_called_does_not_matter(name: str, reply: Reply) -> None:
    """It is read by what it is, whatever its content type says."""
    path = CHAT if name == "openai" else "POST /api/chat"
    async with driven(name, {path: reply}) as (provider, _):
        assert await answer_of(provider, ask()) == "hi"


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "text/plain", "application/octet-stream"])
async def test_a_page_for_people_is_no_answer(name: str, kind: str) -> None:
    """A login page, or a proxy's, fails once and keeps its words for the detail."""
    page = Reply(b"<html>Please log in</html>", kind=kind)
    async with driven(name, {CHAT: page, "POST /api/chat": page}) as (provider, server):
        with pytest.raises(UnreadableAnswer) as refused:
            await answer_of(provider, ask())
    assert (refused.value.retryable, refused.value.lane, len(server.asked)) == (False, "gpu0", 1)
    assert "log in" in refused.value.detail
    assert "log in" not in str(refused.value)


async def test_all_names_that_vllm_lists_for_one_model() -> None:
    """It answers by the first; an adapter, which has another root, is another model."""
    names = {"big": "repo", "default": "repo", "adapter": "/adapter"}
    pages: dict[str, Any] = {
        "GET /v1/models": {"data": [{"id": name, "root": root} for name, root in names.items()]},
        CHAT: sse({"model": "big", "choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]}),
    }
    async with driven("vllm", pages) as (provider, _):
        assert await answer_of(provider, ask(), "default") == "hi"
        for other in ("adapter", "unlisted"):
            with pytest.raises(ModelNotFound):
                await answer_of(provider, ask(), other)


async def _refused(provider: LlmProvider) -> LlmError:
    with pytest.raises(LlmError) as refused:
        await answer_of(provider, ask(logprobs=True))
    return refused.value


async def test_logprobs_where_there_are_none() -> None:
    """They are refused before a word is delivered, and before anything is run where the provider knows."""
    silent = {CHAT: sse({"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]})}
    async with driven("openai", silent) as (provider, _):
        assert type(await _refused(provider)) is BadRequest
    async with driven("lmstudio", silent) as (provider, server):
        assert type(await _refused(provider)) is BadRequest
        assert server.asked == []
    for version, can in (("0.9.3", False), ("0.12.10", False), ("0.12.11", True), ("0.33.0", True), ("dev", True)):
        line = {"message": {"content": "hi"}, "done": True, "logprobs": [{"token": "hi", "logprob": -0.25}]}
        pages = {"GET /api/version": Reply({"version": version}), "POST /api/chat": ndjson(line)}
        async with driven("ollama", pages) as (provider, server):
            if can:
                deltas: list[TokenDelta] = [delta async for delta in provider.chat(ask(logprobs=True), "m")]
                assert [token.logprob for delta in deltas for token in delta.logprobs] == [-0.25]
            else:
                assert "0.12.11" in (await _refused(provider)).message
                assert server.asked == []


async def test_vectors_as_base64() -> None:
    """Some servers send them so whatever they are asked for; they are the same vectors."""
    packed = b64encode(pack("<2f", 3, 4)).decode()
    async with driven("openai", {"POST /v1/embeddings": {"data": [{"embedding": packed}]}}) as (provider, _):
        assert await provider.embed(["a"], "m") == [[pytest.approx(0.6), pytest.approx(0.8)]]


async def test_a_page_with_a_byte_order_mark() -> None:
    """It is a page like any other."""
    page = b"\xef\xbb\xbf" + json.dumps({"data": [{"embedding": [3, 4]}]}).encode()
    async with fake_server({"POST /v1/embeddings": Reply(page)}) as server:
        async with default_registry().create(LaneSettings("gpu0", "openai", server.url)) as provider:
            assert await provider.embed(["a"], "m") == [[0.6, 0.8]]  # type: ignore[attr-defined] # an OpenAI server embeds
