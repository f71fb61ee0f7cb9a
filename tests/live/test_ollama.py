"""The Ollama provider against a real Ollama.

`TOKENLANE_TEST_OLLAMA` names the directory one is, or is to be, installed in (520 MB), as `make test-live` does;
without it these tests are skipped.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shlex
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from tests.matrix import agrees

from tokenlane.config.host.child_processes import spawn
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import BadRequest, ContextTooLong, ModelNotFound
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.worker.discovery.model_servers import probe_target
from tokenlane.worker.discovery.targets import Target
from tokenlane.worker.providers import LlmProvider, Loads, Verifies, default_registry
from tokenlane.worker.providers.conformance import check_provider

PLACE = os.environ.get("TOKENLANE_TEST_OLLAMA", "")
TEMPLATE = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
QUESTION = "What is the capital of France? Answer in one sentence."

pytestmark = [
    pytest.mark.live,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PLACE, reason="TOKENLANE_TEST_OLLAMA names no directory"),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a real Ollama on a port of its own, which has the built-in model as `smollm2`."""
    script = Path(__file__).with_name("install_ollama.sh")
    installing = await asyncio.create_subprocess_exec(script, PLACE, stdout=asyncio.subprocess.PIPE)
    said, _ = await installing.communicate()
    assert installing.returncode == 0
    command = shlex.split(said.decode())[-1]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    with (tmp_path_factory.mktemp("ollama") / "log").open("wb") as log:
        environment = {**os.environ, "OLLAMA_HOST": address}
        served = await spawn(command, output=log, errors=log, environment=environment)
        try:
            async with httpx.AsyncClient(base_url=f"http://{address}", timeout=120) as client:
                await until_it_answers(client)
                await register(client, Path(PLACE) / "model.gguf")
                yield client
        finally:
            await served.end(30)


async def until_it_answers(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                assert (await client.get("/api/version")).json()["version"]
                return
            except httpx.ConnectError:
                await asyncio.sleep(0.05)


async def register(client: httpx.AsyncClient, file: Path) -> None:
    """Give it the model from a file; nothing is pulled."""
    content = file.read_bytes()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if (await client.head(f"/api/blobs/{digest}")).status_code == 404:  # it hangs up on what it has
        (await client.post(f"/api/blobs/{digest}", content=content)).raise_for_status()
    parameters = {"num_ctx": 512, "stop": ["<|im_end|>"], "temperature": 0}
    made = {"model": "smollm2", "files": {"m.gguf": digest}, "template": TEMPLATE, "parameters": parameters}
    answer = await client.post("/api/create", json=made)
    assert '"status":"success"' in answer.text


@pytest_asyncio.fixture(loop_scope="module")
async def provider(server: httpx.AsyncClient) -> AsyncIterator[LlmProvider]:
    """The provider of a lane on it."""
    async with default_registry().create(LaneSettings("gpu0", "ollama", str(server.base_url))) as opened:
        yield opened


def request(text: str = QUESTION, **options: object) -> ChatRequest:
    told = [Message(role="user", content=text)]
    return ChatRequest.model_validate({"role": "r", "messages": told, "max_tokens": 24, **options})


async def answer(provider: LlmProvider, asked: ChatRequest, model: str = "smollm2") -> list[TokenDelta]:
    return [delta async for delta in provider.chat(asked, model)]


async def test_no_prompt_is_cut(provider: LlmProvider) -> None:
    """This version cuts what does not fit, without a word: that is refused, or told; what fits is answered."""
    for words in (40_000, 6_000):
        with pytest.raises(ContextTooLong):
            await said_to(provider, "word " * words)
    assert await said_to(provider, QUESTION)


async def said_to(provider: LlmProvider, question: str) -> str:
    request = ChatRequest(role="r", messages=[Message(role="user", content=question)], max_tokens=4)
    return "".join([delta.text async for delta in provider.chat(request, "smollm2")])


async def test_an_answer(provider: LlmProvider) -> None:
    """It streams sense, and ends with a reason and the counts; a name with its tag is the same model."""
    deltas = await answer(provider, request())
    assert "Paris" in "".join(delta.text for delta in deltas)
    assert len(deltas) > 3
    assert deltas[-1].finish_reason == "stop"
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.prompt_tokens > 10
    assert deltas[-1].usage.completion_tokens >= len(deltas) - 1
    assert (await answer(provider, request(max_tokens=2), "smollm2:latest"))[-1].finish_reason == "length"


async def test_models_and_capacity(provider: LlmProvider) -> None:
    """It lists the model with its digest and what it can do, and runs one request at once."""
    await answer(provider, request(max_tokens=1))
    (model,) = [model for model in await provider.models() if model.name == "smollm2:latest"]
    assert (model.quantisation, model.loaded) == ("Q4_1", True)
    assert model.chats
    assert len(model.digest or "") == len("sha256:") + 64
    assert await provider.capacity() == 1


async def test_probe_recognises_it(server: httpx.AsyncClient) -> None:
    """It is seen as what it is, with the model."""
    seen = await probe_target(Target(LaneSettings("probe", "openai", str(server.base_url))))
    assert (seen.problem, seen.provider) == (None, "ollama")
    assert "smollm2:latest" in seen.models


async def test_a_schema_is_obeyed(provider: LlmProvider) -> None:
    """With a JSON schema the answer is an object of that shape."""
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}
    asked = request(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})
    text = "".join(delta.text for delta in await answer(provider, asked))
    assert set(json.JSONDecoder().raw_decode(text)[0]) == {"city"}


async def test_seed_and_stop(provider: LlmProvider) -> None:
    """The same seed says the same; a stop word ends the answer before it."""
    first, second = [
        "".join(delta.text for delta in await answer(provider, request(seed=7, temperature=1.0, max_tokens=8)))
        for _ in range(2)
    ]
    assert first == second
    stopped = await answer(provider, request(stop="Paris"))
    assert "Paris" not in "".join(delta.text for delta in stopped)
    assert stopped[-1].finish_reason == "stop"


async def test_refusals(provider: LlmProvider) -> None:
    """An unknown model, and what a model cannot do, are errors that say so."""
    with pytest.raises(ModelNotFound, match="tokenlane models pull"):
        await answer(provider, request(), "nosuch")
    with pytest.raises(BadRequest) as refused:
        await answer(provider, request(tools=[{"type": "function", "function": {"name": "f"}}]))
    assert "does not support tools" in refused.value.detail


async def test_closing_frees_the_slot(provider: LlmProvider) -> None:
    """After a long answer is left in its beginning the next one is served: the only slot is free again."""
    stream = provider.chat(request("Write a long story.", max_tokens=400), "smollm2")
    assert (await anext(stream)).text
    await stream.aclose()
    assert (await answer(provider, request(max_tokens=2)))[-1].finish_reason == "length"


async def test_unloading_by_extra(provider: LlmProvider, server: httpx.AsyncClient) -> None:
    """`keep_alive` in `extra` reaches it: with 0 the model is unloaded after the answer."""
    await answer(provider, request(max_tokens=1, extra={"keep_alive": 0}))
    async with asyncio.timeout(30):
        while (await server.get("/api/ps")).json()["models"]:
            await asyncio.sleep(0.05)


async def test_conformance(provider: LlmProvider) -> None:
    """No promise is broken, and what works is what is written down."""
    agrees("ollama", "real server", await check_provider(provider, "smollm2", name="ollama"))


async def test_models_are_loaded_unloaded_and_verified(provider: LlmProvider, server: httpx.AsyncClient) -> None:
    """It loads and unloads by the name alone and tells the digest of its list."""
    assert isinstance(provider, Loads)
    assert isinstance(provider, Verifies)

    async def listed() -> dict[str, bool | None]:
        return {info.name: info.loaded for info in await provider.models()}

    for _ in range(2):
        await provider.load("smollm2")
        assert (await listed())["smollm2:latest"] is True
    for _ in range(2):
        await provider.unload("smollm2")
        async with asyncio.timeout(30):
            while (await listed())["smollm2:latest"]:
                await asyncio.sleep(0.1)
    tags = (await server.get("/api/tags")).json()["models"]
    digest = next(entry["digest"] for entry in tags if entry["name"] == "smollm2:latest")
    assert await provider.verify("smollm2") == f"sha256:{digest}"
    for refused in (provider.load("unknown"), provider.unload("unknown"), provider.verify("unknown")):
        with pytest.raises(ModelNotFound):
            await refused
