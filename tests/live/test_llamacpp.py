"""What llama.cpp's server does besides chat, on the real one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.fake_server import answer_of, ask

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import BadRequest, ContextTooLong
from tokenlane.worker.builtin import MODEL_NAME, model
from tokenlane.worker.builtin.server import builtin_server
from tokenlane.worker.discovery.model_servers import probe_target
from tokenlane.worker.discovery.targets import Target
from tokenlane.worker.providers.openai.llamacpp import LlamaCppProvider

pytestmark = pytest.mark.live

# llama.cpp's server listens at a Unix socket where its host's name ends with .sock.
AT_SOCKET = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, at = sys.argv[1:]
params.model_alias = {"smollm2"}
params.hostnames = [at]
params.n_ctx = 2048
params.verbosity = -1
server = xllamacpp.Server(params)
sys.stdin.read()
"""
QUESTION = "What is the capital of France? Answer in one sentence."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoint() -> AsyncIterator[str]:
    """The real server, with the built-in model."""
    async with builtin_server(await model.fetch(), capacity=2) as address:
        yield address


@pytest.fixture
async def provider(endpoint: str) -> AsyncIterator[LlamaCppProvider]:
    """A lane's provider on it."""
    async with LlamaCppProvider(LaneSettings("gpu0", "llamacpp", endpoint)) as opened:
        yield opened


async def test_a_begun_answer_goes_on(provider: LlamaCppProvider) -> None:
    """What comes is the continuation alone, with the white space that was there taken off."""
    for begun in ("The capital of", "The capital of "):
        more = await answer_of(provider, ask(QUESTION, temperature=0, max_tokens=12), MODEL_NAME, begun)
        assert more.lstrip().startswith("France")
        assert "The capital of" not in more
        assert more.startswith(" ") is not begun.endswith(" ")


async def test_an_answer_continued_is_the_answer(provider: LlamaCppProvider) -> None:
    """Cut at a word anywhere, a greedy answer goes on as it would have."""
    request = ask(QUESTION, temperature=0, max_tokens=24)
    whole = await answer_of(provider, request, MODEL_NAME)
    words = whole.split(" ")
    for count in range(1, len(words)):
        begun = " ".join(words[:count])
        assert begun + await answer_of(provider, request, MODEL_NAME, begun) == whole


async def test_it_counts_as_it_reads(provider: LlamaCppProvider) -> None:
    """The tokenizer's count is the prompt's, to the token."""
    request = ask("你好 😀 <|im_end|> Say hi.", max_tokens=1)
    last = [delta async for delta in provider.chat(request, MODEL_NAME)][-1]
    assert last.usage is not None
    assert await provider.count_tokens(request, MODEL_NAME) == last.usage.prompt_tokens


async def test_what_it_says_of_itself(provider: LlamaCppProvider) -> None:
    """It can continue, and can neither embed nor see, and its template knows no tools."""
    [info] = await provider.models()
    assert info.capabilities == ("chat", "schema", "prefill")
    with pytest.raises(BadRequest, match=r"\b501\b"):
        await provider.embed(["a"], MODEL_NAME)
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    with pytest.raises(BadRequest):
        await answer_of(provider, ask(messages=[{"role": "user", "content": parts}]), MODEL_NAME)


async def test_too_long_a_prompt_by_its_numbers(provider: LlamaCppProvider, endpoint: str) -> None:
    """The server names tokens and limit; so do we, where the lane's limit is lower."""
    with pytest.raises(ContextTooLong, match=r"\b30\d\d\b.*\b2048\b"):
        await answer_of(provider, ask("word " * 3000), MODEL_NAME)
    async with LlamaCppProvider(LaneSettings("gpu0", "llamacpp", endpoint, max_input_tokens=100)) as limited:
        assert await answer_of(limited, ask("word " * 40, max_tokens=2), MODEL_NAME)
        with pytest.raises(ContextTooLong, match=r"\b1\d\d\b.*max_input_tokens\D+100\b"):
            await answer_of(limited, ask("word " * 100), MODEL_NAME)


async def test_a_json_object(provider: LlamaCppProvider) -> None:
    """`json_object` without a schema is obeyed."""
    asked = ask("Tell me about Paris as JSON.", max_tokens=8, temperature=0, response_format={"type": "json_object"})
    assert (await answer_of(provider, asked, MODEL_NAME)).lstrip().startswith("{")


async def test_at_a_unix_socket(tmp_path: Path) -> None:
    """It is recognised there, and answers."""
    at = tmp_path / "llama.sock"
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", AT_SOCKET, str(await model.fetch()), str(at)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(60):
            while (seen := await probe_target(Target(LaneSettings("probe", "openai", f"unix://{at}")))).problem:
                assert server.returncode is None
        assert (seen.provider, seen.models) == ("llamacpp", ("smollm2",))
        async with LlamaCppProvider(LaneSettings("gpu0", "llamacpp", f"unix://{at}")) as provider:
            assert "Paris" in await answer_of(provider, ask(QUESTION, temperature=0, max_tokens=24), "smollm2")
    finally:
        server.kill()
        await server.wait()
