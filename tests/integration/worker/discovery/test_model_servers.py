"""What is seen where model servers are, and where they are not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest
import trustme
from pydantic import SecretStr
from tests import pages
from tests.integration.servers import free_port

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.dialects import DIALECTS
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.watch.finding import Code
from tokenlane.worker.discovery import model_servers as probe
from tokenlane.worker.discovery.model_servers import ModelServer, probe_target, probe_targets
from tokenlane.worker.discovery.targets import Target, usual_targets
from tokenlane.worker.providers import default_registry


async def seen(url: str, provider: str | None = None, models: tuple[str, ...] = ()) -> ModelServer:
    return await probe_target(Target(LaneSettings("gpu0", "openai", url, models, api_key=SecretStr("sk-1")), provider))


async def why_not(looking: Awaitable[ModelServer]) -> str:
    """Why a server cannot be used as it is."""
    problem = (await looking).problem
    assert problem is not None
    return problem.observed


@pytest.mark.parametrize(
    ("served", "kind", "models"),
    [
        (pages.OLLAMA, "ollama", ("phi3:latest",)),
        (pages.VLLM, "vllm", ("qwen", "adapter")),
        (pages.LM_STUDIO, "lmstudio", ("openai/gpt-oss-20b",)),
        (pages.TGI, "tgi", ("org/zephyr",)),
        (pages.LLAMA_CPP, "llamacpp", ("smol",)),
    ],
)
async def test_a_server_with_a_model(served: pages.Pages, kind: str, models: tuple[str, ...]) -> None:
    """Each kind is recognised wherever it listens, and found with the models that can chat."""
    async with pages.serving(served) as url:
        server = await seen(url)
        assert (server.problem, server.provider, server.models) == (None, kind, models)
        assert (server.lane.provider, server.endpoint) == (kind, url)
        assert (await seen(f"{url}/v1")).models == models


@pytest.mark.parametrize(
    ("served", "provider", "code"),
    [
        ({**pages.OLLAMA, "/api/tags": {"models": []}}, None, Code.MODEL_MISSING),
        ({**pages.LM_STUDIO, "/api/v1/models": {"models": []}}, None, Code.MODEL_MISSING),
        (pages.VLLM_EMBEDDING, None, Code.MODEL_MISSING),
        (pages.UNRELATED, None, Code.OTHER_SERVER),
        (pages.UNRELATED, "ollama", Code.OTHER_SERVER),
        (pages.UNRELATED, "openai", Code.MODEL_SERVER),
        (pages.OTHER_OPENAI, None, Code.OTHER_SERVER),
        (pages.OLLAMA, "vllm", Code.OTHER_SERVER),
        (pages.LM_STUDIO, "ollama", Code.OTHER_SERVER),
    ],
)
async def test_why_it_is_not_counted(served: pages.Pages, provider: str | None, code: Code) -> None:
    """A server that cannot be used as it is has a problem, which says why."""
    async with pages.serving(served) as url:
        problem = (await seen(url, provider)).problem
    assert problem is not None
    assert (problem.code, problem.subject) == (code, url)


@pytest.mark.parametrize("api", [api for api in DIALECTS if api != "anthropic"])  # no provider speaks it
async def test_an_endpoint_that_names_a_user(api: str) -> None:
    """It is recognised like any other, and its password is not shown."""
    async with Simulator(api=api) as simulator:
        url = simulator.url.replace("://", "://user:word@")
        server = await probe_target(Target(LaneSettings("gpu0", "openai", url), "openai" if api == "openai" else None))
        assert (server.provider, server.problem) == (api.removesuffix("-router"), None)
    assert "word" not in server.endpoint


@pytest.mark.parametrize(
    ("served", "kind"), [(pages.VLLM_WITH_A_KEY, "vllm"), (pages.LM_STUDIO_WITH_A_KEY, "lmstudio")]
)
async def test_a_key_that_is_refused(served: pages.Pages, kind: str) -> None:
    """A server that wants another key is recognised all the same."""
    async with pages.serving(served, status=401) as url:
        for server in (await seen(url, kind), await seen(url)):
            assert server.problem is not None
            assert "key" in server.problem.observed
            assert (server.provider, server.lane.provider) == (kind, kind)


async def test_a_redirect() -> None:
    """It is told, since none is followed."""
    async with pages.serving({"*": {}}, status=302) as url:
        assert "redirect (HTTP 302)" in await why_not(seen(url))


async def test_a_remote_endpoint_that_refuses_the_key() -> None:
    """What is named as OpenAI-compatible says itself that the key is wrong."""
    async with pages.serving({"/v1/models": {"error": {"message": "Incorrect API key"}}}, status=401) as url:
        server = await seen(url, "openai")
    assert server.problem is not None
    assert "key" in server.problem.observed


async def test_something_is_there_that_does_not_let_us_in() -> None:
    """Where something listens it is not said that nothing does: it is no HTTP, or its certificate is not trusted."""
    async with mute(b"rubbish\r\n\r\n") as rubbish:
        assert "does not speak HTTP" in await why_not(seen(rubbish))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with Simulator(tls=context) as secure:
        assert "SSL_CERT_FILE" in await why_not(seen(secure.url))


@pytest.mark.parametrize(
    "served",
    [
        pages.OTHER_OPENAI,
        {"/openapi.json": {"paths": {"/v1/chat/completions": {}}}},
        {"/v1/models": {"error": {"message": "No key.", "type": "invalid_request_error"}}},
    ],
)
async def test_another_server_is_told_to_be_compatible(served: pages.Pages) -> None:
    """Where nobody said what is there, it is said which provider to use, whether or not it lists its models."""
    async with pages.serving(served) as url:
        server = await seen(url)
    assert server.provider == "openai"
    assert server.problem is not None
    assert "provider openai" in server.problem.observed


async def test_a_named_openai_server_and_model() -> None:
    """What the configuration calls OpenAI-compatible needs no more than a list; a configured model must be in it."""
    async with pages.serving(pages.OTHER_OPENAI) as url:
        assert (await seen(url, "openai")).problem is None
        assert "'other'" in await why_not(seen(url, "openai", ("other",)))
    async with pages.serving(pages.OLLAMA) as url:
        assert (await seen(url, "ollama", ("phi3",))).problem is None
        assert (await seen(url, "openai")).problem is None


async def test_the_simulators() -> None:
    """What the simulator imitates is recognised as that; a model for embeddings is no chat model."""
    async with Simulator(api="ollama", models=("embed-mini:latest", "phi3:latest")) as ollama, Simulator() as llama:
        first, second = await probe_targets(Target(LaneSettings("p", "openai", each.url)) for each in (ollama, llama))
    assert (first.provider, first.models) == ("ollama", ("phi3:latest",))
    assert (second.provider, second.models) == ("llamacpp", ("sim",))


async def test_a_llama_cpp_that_only_embeds() -> None:
    """Its model cannot chat, which its vocabulary tells."""
    async with Simulator(models=("embed-mini",)) as simulator:
        server = await probe_target(Target(LaneSettings("p", "openai", simulator.url)))
        async with default_registry().create(LaneSettings("p", "llamacpp", simulator.url)) as backend:
            assert [model.capabilities for model in await backend.models()] == [("embed",)]
    assert (server.provider, server.models) == ("llamacpp", ())
    assert server.problem is not None
    assert server.problem.code == Code.MODEL_MISSING


async def test_nobody_is_there() -> None:
    """A closed port, and an address that is none, are said to be just that."""
    assert "Nothing listens" in await why_not(seen(f"http://127.0.0.1:{free_port()}"))
    assert "ftp://127.0.0.1" in await why_not(seen("ftp://127.0.0.1"))


async def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts and says nothing, or never ends, costs the time-out and no more."""
    monkeypatch.setattr(probe, "TIMEOUT_S", 0.2)
    async with mute(b"") as silent, mute(b"HTTP/1.1 200 OK\r\n\r\n[") as endless:
        for server in (await seen(silent), await seen(endless)):
            assert server.problem is not None
            assert "did not answer within 0.2 s" in server.problem.observed


@asynccontextmanager
async def mute(words: bytes) -> AsyncIterator[str]:
    """A server that says no more than this, and keeps its connections."""
    open_ones: list[asyncio.StreamWriter] = []

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.append(writer)
        writer.write(words)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in open_ones:
            writer.transport.abort()


def test_the_usual_places() -> None:
    """They are the ports that Ollama, LM Studio, vLLM, TGI and llama.cpp take by themselves, on this host alone."""
    assert [place.lane.endpoint for place in usual_targets()] == [
        f"http://127.0.0.1:{port}" for port in (11434, 1234, 8000, 8080)
    ]


@pytest.mark.parametrize(
    ("served", "provider", "capacity", "context"),
    [
        (pages.VLLM, "vllm", 64, 4096),
        (pages.LM_STUDIO, "lmstudio", 4, 8192),
        (pages.TGI, "tgi", 64, 4096),
        (pages.LLAMA_CPP, "llamacpp", 4, 2048),
    ],
)
async def test_what_a_lane_learns(served: pages.Pages, provider: str, capacity: int, context: int) -> None:
    """Each provider knows its server's capacity and, of a loaded chat model, the context."""
    async with pages.serving(served) as url, default_registry().create(LaneSettings("g", provider, url)) as backend:
        chat = [model for model in await backend.models() if model.chats]
        assert (chat[0].context_length, chat[0].loaded) == (context, True)
        assert await backend.capacity() == capacity
