"""The vLLM provider against a real vLLM.

`TOKENLANE_TEST_VLLM` names the directory one is, or is to be, installed in (3.4 GB), as `make test-live` does; without
it these tests are skipped.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from tests.fake_server import answer_of, ask
from tests.integration.servers import free_port
from tests.matrix import agrees

from tokenlane.config.host.child_processes import spawn
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import BadRequest, ContextTooLong
from tokenlane.worker.discovery.model_servers import probe_target
from tokenlane.worker.discovery.targets import Target
from tokenlane.worker.providers.conformance import Report, check_provider
from tokenlane.worker.providers.openai.vllm import VllmProvider

from .cut_answers import CUTS, Cut, check_cut

PLACE = os.environ.get("TOKENLANE_TEST_VLLM", "")
TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
QUESTION = "What is the capital of France? Answer in one sentence."

pytestmark = [
    pytest.mark.live,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not PLACE, reason="TOKENLANE_TEST_VLLM names no directory"),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serve() -> str:
    """The command that serves, once it is installed."""
    script = Path(__file__).with_name("install_vllm.sh")
    installing = await asyncio.create_subprocess_exec(script, PLACE, stdout=asyncio.subprocess.PIPE)
    said, _ = await installing.communicate()
    assert installing.returncode == 0
    return shlex.split(said.decode())[0]


@asynccontextmanager
async def serving(command: str, log: Path, *options: str, at: Path | None = None) -> AsyncIterator[str]:
    """A server with these options, once it is ready; its URL. `at`: a Unix socket for it, instead of a port."""
    if at is None:
        port = free_port()
        where, url, base = ("--port", str(port)), f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}"
    else:
        where, url, base = ("--uds", str(at)), f"unix://{at}", "http://localhost"
    transport = httpx.AsyncHTTPTransport(uds=None if at is None else str(at))
    with log.open("wb") as written:
        server = await spawn(command, *where, *options, output=written, errors=written)
        try:
            async with httpx.AsyncClient(base_url=base, transport=transport) as client, asyncio.timeout(300):
                while not await healthy(client):
                    assert server.process.returncode is None, log.read_text()[-2000:]
                    await asyncio.sleep(0.2)
            yield url
        finally:
            await server.end(30)


async def healthy(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health")).is_success
    except httpx.TransportError:
        return False


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoint(serve: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A server that chats, and calls tools."""
    async with serving(serve, tmp_path_factory.mktemp("vllm") / "log", *TOOLS) as address:
        yield address


@pytest_asyncio.fixture(loop_scope="module")
async def provider(endpoint: str) -> AsyncIterator[VllmProvider]:
    """The provider of a lane on it."""
    async with VllmProvider(LaneSettings("gpu0", "vllm", endpoint)) as opened:
        yield opened


def running(endpoint: str) -> Callable[[], Awaitable[int]]:
    """How many requests run, by the server's own gauge."""

    async def busy() -> int:
        async with httpx.AsyncClient(base_url=endpoint) as client:
            lines = (await client.get("/metrics")).text.splitlines()
        return int(sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{")))

    return busy


async def checked(endpoint: str, only: list[str] | None = None) -> Report:
    async with VllmProvider(LaneSettings("gpu0", "vllm", endpoint)) as provider:
        return await check_provider(provider, "smollm2", name="vllm", busy=running(endpoint), only=only)


async def test_probe_recognises_it(endpoint: str) -> None:
    """It is seen as what it is, with the model."""
    seen = await probe_target(Target(LaneSettings("probe", "openai", endpoint)))
    assert (seen.problem, seen.provider, seen.models) == (None, "vllm", ("smollm2",))


async def test_a_begun_answer_goes_on(provider: VllmProvider) -> None:
    """What comes is the continuation alone, with the white space that was there taken off."""
    for begun in ("The capital of", "The capital of "):
        more = await answer_of(provider, ask(QUESTION, temperature=0, max_tokens=12), "smollm2", begun)
        assert more.lstrip().startswith("France")
        assert more.startswith(" ") is not begun.endswith(" ")


@pytest.mark.parametrize("cut", CUTS, ids=str)
async def test_a_cut_answer_goes_on(cut: Cut, endpoint: str, redis_url: str) -> None:
    """Wherever a stream is cut, the text is the part before the cut, and what the server gives when it is asked to
    continue that part."""
    await check_cut(cut, redis_url, "vllm", (endpoint, endpoint), "smollm2")


async def test_it_counts_as_it_reads(provider: VllmProvider) -> None:
    """The tokenizer's count is the prompt's, to the token."""
    request = ask("你好 😀 Say hi.", max_tokens=1)
    last = [delta async for delta in provider.chat(request, "smollm2")][-1]
    assert last.usage is not None
    assert await provider.count_tokens(request, "smollm2") == last.usage.prompt_tokens


async def test_a_call_in_pieces(provider: VllmProvider) -> None:
    """A tool that has to be called is, piece by piece, and the finish reason says so."""
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    asked = ask("Add 1 and 2.", tools=[tool], tool_choice="required", max_tokens=48, temperature=0)
    deltas = [delta async for delta in provider.chat(asked, "smollm2")]
    calls = [call for delta in deltas for call in delta.tool_calls]
    assert next(call.name for call in calls if call.name) == "add"
    assert deltas[-1].finish_reason in ("tool_calls", "length")


@pytest.mark.parametrize(("words", "limit"), [(3000, None), (1, 3000)])
async def test_too_long(provider: VllmProvider, words: int, limit: int | None) -> None:
    """A prompt beyond the context, or room for an answer beyond it: the numbers are named."""
    with pytest.raises(ContextTooLong, match=r"\b\d+\b.*\b2048\b"):
        await answer_of(provider, ask("word " * words, max_tokens=limit), "smollm2")


async def test_what_its_model_cannot_do(provider: VllmProvider) -> None:
    """Embeddings of a chat model, and images, are refused."""
    with pytest.raises(BadRequest):
        await provider.embed(["a"], "smollm2")
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    with pytest.raises(BadRequest):
        await answer_of(provider, ask(messages=[{"role": "user", "content": parts}]), "smollm2")


async def test_conformance(serve: str, endpoint: str, tmp_path: Path) -> None:
    """No promise is broken, and what works is what is written down; embeddings have a server of their own, at a Unix
    socket."""
    chats = await checked(endpoint)
    pooling = ("--runner", "pooling", "--convert", "embed")
    async with serving(serve, tmp_path / "log", *pooling, at=tmp_path / "vllm.sock") as embeds:
        agrees("vllm", "real server", chats, await checked(embeds, ["embed"]))
