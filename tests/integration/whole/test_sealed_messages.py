"""With a pool key, nobody who reads the server's channels and commands learns a prompt or an answer."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import JsonValue
from tests.integration.clients import quick_client
from tests.integration.farm import Farm, farm
from tests.integration.stand_in import stand_in
from tests.integration.whole.test_secrecy import KEY, OUTPUT, PROMPT, WORDS, ask_everything, marked
from tests.verbs import run_in_thread

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.host.embedded_server import EmbeddedServer
from tokenlane.config.host.pool_key_files import KeyRing, read_key_file
from tokenlane.config.host.socket_urls import socket_of
from tokenlane.producer import ChatStream, Client
from tokenlane.routing.contract.answers import TokenDelta, Usage
from tokenlane.routing.contract.messages import ChannelMessage, Completed, Deltas, Progressed
from tokenlane.routing.contract.results import Progress
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.keys import Keys
from tokenlane.routing.store.pool import Pool, connect

SERVING = ("--provider", "llamacpp", "--drain", "0")
TOOL: dict[str, JsonValue] = {"type": "function", "function": {"name": "marked-tool", "parameters": {}}}
HELD: dict[str, JsonValue] = {"simulate": FaultScript(pieces=WORDS, hold_after=2).model_dump(mode="json")}


@pytest.fixture
async def backend() -> AsyncIterator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(tmp_path / "redis", keeps=True) as server:
        yield server


@pytest.fixture
async def opened(server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Farm]:
    async with farm(tmp_path, server.url) as opened:
        yield opened


class Wiretap:
    """All commands that the server runs and all messages that it publishes, as a client without the pool key sees
    them."""

    def __init__(self) -> None:
        self.heard = bytearray()

    def __contains__(self, text: str) -> bool:
        return text.encode() in self.heard

    async def listen(self, server: EmbeddedServer, command: bytes) -> None:
        socket = socket_of(server.url)
        assert socket is not None
        reader, writer = await asyncio.open_unix_connection(socket)
        try:
            writer.write(command)
            while data := await reader.read(65536):
                self.heard += data
        finally:
            writer.close()


@asynccontextmanager
async def wiretap(server: EmbeddedServer) -> AsyncIterator[Wiretap]:
    tap = Wiretap()
    commands = (b"MONITOR\r\n", b"PSUBSCRIBE *\r\n")
    listening = [asyncio.create_task(tap.listen(server, command)) for command in commands]
    try:
        async with asyncio.timeout(10):
            while b"+OK" not in tap.heard or b"psubscribe" not in tap.heard:
                await asyncio.sleep(0.01)
        yield tap
    finally:
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)


async def text_so_far(stream: ChatStream, text: str) -> None:
    """Read the stream up to this text."""
    async for _ in stream:
        if stream.text == text:
            return
    raise AssertionError(stream.text)


async def every_kind_of_answer(server: EmbeddedServer, opened: Farm, backend: Simulator) -> list[str]:
    """Ask for answers that succeed and fail, a tool call, vectors, and an answer that a second worker continues. Return
    pieces of what workers and agents have sent for it."""
    worker = await opened.worker("gpu0", backend, *SERVING)
    await ask_everything(server.url)
    async with Simulator(api="ollama", models=["embed-mini"]) as embedder, Client(server.url) as client:
        await opened.worker("gpu1", embedder, "--provider", "ollama")
        called = await client.complete(PROMPT, role="planner", tools=[TOOL])
        found = await client.embed(PROMPT, role="indexer")
        async with client.chat(PROMPT, role="planner", extra=HELD) as stream:
            await text_so_far(stream, "".join(WORDS[:2]))
            await worker.end()
            await opened.worker("gpu0", backend, *SERVING)
            await backend.wait_for(lambda: bool(backend.log[-1].prefill) and backend.log[-1].held)
            backend.release()
            answer = await stream.answer()
    assert (answer.text, answer.usage.attempts) == ("".join(WORDS), 2)
    (call,) = called.tool_calls
    vector = base64.b64encode(found.vector.tobytes()).decode().rstrip("=")
    return [OUTPUT, "".join(WORDS[:2]), call.name, vector]


@pytest.mark.parametrize("is_sealed", [True, False])
async def test_no_byte_of_an_answer_is_on_the_wire(
    server: EmbeddedServer, opened: Farm, backend: Simulator, is_sealed: bool
) -> None:
    """Neither prompts, answers, tool calls, vectors, details of errors nor handovers are readable in commands and
    messages. Without a key, the same search finds each of them."""
    if not is_sealed:
        server.key_file.unlink()
    async with connect(server.url) as pool, wiretap(server) as tap:
        await pool.policies.write(Policy(max_starts=2))
        pieces = [PROMPT, f"cannot answer {PROMPT}", *await every_kind_of_answer(server, opened, backend)]
    heard = [piece for piece in pieces if piece in tap]
    assert heard == ([] if is_sealed else pieces)
    assert marked(tap.heard.decode("latin-1")) == ([] if is_sealed else [PROMPT, OUTPUT, KEY])


async def test_a_sealed_answer_outlives_its_key_its_worker_and_its_reader(
    server: EmbeddedServer, opened: Farm, backend: Simulator
) -> None:
    """The pool's key changes in mid-answer; another client attaches; another worker continues the answer."""
    async with Client(server.url) as first, Client(server.url) as second:
        worker = await opened.worker("gpu0", backend, *SERVING)
        async with first.chat("hello", role="planner", extra=HELD) as stream:
            await text_so_far(stream, "".join(WORDS[:2]))
            assert (await run_in_thread("key", "rotate", "--redis", server.url)).code == 0
            assert len(read_key_file(server.key_file).keys) == 2
            async with second.attach(stream.request_id) as joined:
                await text_so_far(joined, "".join(WORDS[:2]))
                await worker.end()
                await opened.worker("gpu0", backend, *SERVING)
                await backend.wait_for(lambda: bool(backend.log[-1].prefill) and backend.log[-1].held)
                backend.release()
                answers = [await each.answer() for each in (stream, joined)]
        assert [answer.text for answer in answers] == ["".join(WORDS)] * 2


async def publish(pool: Pool, stream: ChatStream, message: ChannelMessage | bytes) -> None:
    data = message if isinstance(message, bytes) else message.to_wire()
    await pool.publish([(Keys().deltas(stream.request_id), data)])


async def test_forged_messages_change_no_answer(
    server: EmbeddedServer, opened: Farm, backend: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    """Someone who may publish but lacks the pool key cannot put a word into an answer, nor end it as complete."""
    async with connect(server.url) as pool, Client(server.url) as client:
        await opened.worker("gpu0", backend, *SERVING)
        async with client.chat("hello", role="planner", extra=HELD) as stream:
            await text_so_far(stream, "".join(WORDS[:2]))
            source = {"attempt": 1, "worker": "w", "lane": "gpu0", "model": "sim"}
            for forged in (
                Deltas(**source, first=2, deltas=[TokenDelta(text="forged")]),
                Completed(**source, first=2, end=2, usage=Usage()),
                Progressed(**source, progress=Progress(step="forged")),
                b"\x01" + bytes(60),
                b"forged",
            ):
                await publish(pool, stream, forged)
            backend.release()
            answer = await stream.answer()
        assert answer.text == "".join(WORDS)
    assert caplog.text.count(stream.request_id) == 1


async def test_what_does_not_open_is_asked_for_again(server: EmbeddedServer) -> None:
    """A message that was changed on its way is as good as lost: the worker publishes the missing part again."""
    async with (
        connect(server.url, keys=KeyRing(), unseals=True) as pool,
        stand_in(pool) as worker,
        quick_client(server.url) as client,
        client.chat("hello", role="planner") as stream,
    ):
        run = await worker.next_run()
        await run.say("a")
        await text_so_far(stream, "a")
        await run.say("b", lost=True)
        await publish(pool, stream, b"\x01" + bytes(60))
        await text_so_far(stream, "ab")
        await run.complete()
        assert (await stream.answer()).text == "ab"
