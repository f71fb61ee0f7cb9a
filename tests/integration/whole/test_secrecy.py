"""What an agent says and is told is in no log, span, metric, exception or repr; and traces span processes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import JsonValue
from tests.integration.farm import EVERY_LOG, Child, Farm, farm
from tests.integration.life import dump, raw
from tests.processes import pid_of
from tests.traces import recorded_spans

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.host.embedded_server import EmbeddedServer
from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.producer import Client, LlmError
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.worker.attempt import observe

PROMPT, OUTPUT, KEY = "marked-prompt", "marked-output", "sk-marked0123456789abcdef"
WORDS = (OUTPUT, " and ", OUTPUT)
SPANS_TO_STDOUT = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=lambda span: span.to_json(None) + "\\n")))
trace.set_tracer_provider(provider)
"""

# What may happen to a request; each quotes the prompt or the output where a careless program would repeat it.
FATES = (
    FaultScript(pieces=WORDS),
    FaultScript(pieces=WORDS, cut_after=2),
    FaultScript(pieces=WORDS, error_after=1, error={"message": f"cannot answer {PROMPT}", "code": 500}),
    FaultScript(status=400, error={"message": f"bad: {PROMPT}", "type": "invalid_request_error"}),
    FaultScript(status=401, error={"message": f"bad: {PROMPT}, key {KEY}"}),
    FaultScript(pieces=WORDS, malformed_after=1),
    FaultScript(pieces=WORDS, finish_reason=None),
    FaultScript(pieces=WORDS, answers_as=OUTPUT),
    FaultScript(pieces=WORDS, content_type="text/html"),
)


@pytest.fixture
async def backend() -> AsyncIterator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


@pytest.fixture
async def opened(redis_url: str, pool: Pool, tmp_path: Path) -> AsyncIterator[Farm]:
    await pool.policies.write(Policy(max_starts=2))
    async with farm(tmp_path, redis_url) as opened:
        yield opened


def marked(text: str) -> list[str]:
    """The marks in a text."""
    return [mark for mark in (PROMPT, OUTPUT, KEY) if mark in text]


async def ask_everything(url: str) -> list[LlmError]:
    """Ask once for every fate; what failed."""
    errors = []
    async with Client(url) as client:
        for fate in FATES:
            extra: dict[str, JsonValue] = {"simulate": fate.model_dump(mode="json"), "api_key": KEY}
            try:
                async with client.chat(f"say {PROMPT}", role="planner", extra=extra) as stream:
                    async for delta in stream:
                        assert not marked(repr(delta))
                    answer = await stream.answer()
                    assert not marked(f"{stream!r} {client!r} {answer!r}")
                    assert answer.text == "".join(WORDS)
            except LlmError as error:
                errors.append(error)
    return errors


async def stopped(child: Child) -> str:
    """End a worker; all it said."""
    ended = await child.end()
    assert ended.code == 0, ended
    return ended.out + ended.error


async def test_nothing_said_is_logged(
    redis_url: str, opened: Farm, backend: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    """With every logger at its finest neither worker nor client writes a prompt, an output or a key."""
    caplog.set_level(logging.DEBUG)
    options = ("--metrics", "127.0.0.1:0")
    worker = await opened.worker("gpu0", backend, *options, shim=EVERY_LOG, TOKENLANE_API_KEY=KEY)
    errors = await ask_everything(redis_url)
    assert len(errors) == len(FATES) - 1
    async with aiohttp.ClientSession() as session, session.get(f"{worker.metrics_url}/metrics") as page:
        metrics = await page.text()
    assert "gen_ai_client_operation_duration_seconds_bucket" in metrics
    assert marked(metrics) == []
    said = await stopped(worker)
    assert said.count(f'"logger": "{observe.__name__}"') >= len(FATES), "the loggers say nothing"
    lines = [json.loads(line) for line in said.splitlines()]
    ended = [line for line in lines if line.get("event") == "request"]
    assert len({line["request_id"] for line in ended}) == len(ended), "a request has several lines"
    assert {line["outcome"] for line in ended} == {"completed", "failed"}
    assert {line["role"] for line in ended} == {"planner"}
    assert all({"request_id", "lane", "model", "attempts", "total_ms"} <= line.keys() for line in ended)
    assert marked(said) == []
    assert marked(caplog.text) == []
    assert f"Bearer {KEY}" in {received.headers.get("Authorization") for received in backend.log}


async def test_errors_do_not_quote(redis_url: str, opened: Farm, backend: Simulator) -> None:
    """No error's text or repr, nor that of its causes, holds what was said; `detail` may."""
    await opened.worker("gpu0", backend)
    for error in await ask_everything(redis_url):
        one: BaseException | None = error
        while one is not None:
            assert marked(f"{one} {one!r} {one.args}") == [], type(one)
            one = one.__cause__ or one.__context__


async def test_asking_for_transcripts_logs_them(redis_url: str, opened: Farm, backend: Simulator) -> None:
    """With SC_DEBUG=llm requests and answers are logged, and no key."""
    worker = await opened.worker("gpu0", backend, TOKENLANE_API_KEY=KEY, SC_DEBUG="llm")
    await ask_everything(redis_url)
    said = await stopped(worker)
    assert {PROMPT, OUTPUT} <= set(marked(said))
    assert KEY not in said


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What this process traces."""
    return recorded_spans(monkeypatch)


def traceparent(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


async def test_a_trace_spans_processes(
    redis_url: str, pool: Pool, opened: Farm, backend: Simulator, spans: InMemorySpanExporter
) -> None:
    """The stream entry carries the context of the agent's span; the worker's span is its child; neither holds text."""
    worker = await opened.worker("gpu0", backend, shim=SPANS_TO_STDOUT)
    extra: dict[str, JsonValue] = {"simulate": FaultScript(pieces=WORDS, hold_after=1).model_dump(mode="json")}
    async with Client(redis_url) as client, client.chat(PROMPT, role="planner", extra=extra) as stream:
        await backend.held()
        ((_, entry),) = await raw(pool).xrange("{main}:role:planner")
        backend.release()
        await stream.answer()
    (sent,) = spans.get_finished_spans()
    assert sent.name == "llm.request"
    parent = json.loads(entry[b"envelope"])["trace"]["traceparent"]
    assert parent == traceparent(sent)
    said = await stopped(worker)
    (processed,) = [span for line in said.splitlines() if (span := json.loads(line)).get("name") == "llm.attempt"]
    _, trace_id, span_id, _ = parent.split("-")
    assert (processed["context"]["trace_id"], processed["parent_id"]) == (f"0x{trace_id}", f"0x{span_id}")
    assert marked(said + sent.to_json()) == []


async def test_failures_leave_spans_without_text(
    redis_url: str, opened: Farm, backend: Simulator, spans: InMemorySpanExporter
) -> None:
    """The spans of failed attempts say with what code, and quote nothing."""
    worker = await opened.worker("gpu0", backend, shim=SPANS_TO_STDOUT)
    await asyncio.wait_for(ask_everything(redis_url), 50)
    said = await stopped(worker)
    assert '"error.type"' in said
    assert marked(said + "".join(span.to_json() for span in spans.get_finished_spans())) == []


def on_disk(directory: Path) -> list[str]:
    """The marks in all files under a directory, names included."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert files
    return [f"{mark} in {path}" for path in files for mark in marked(f"{path} {path.read_bytes().decode('latin-1')}")]


async def in_server(pool: Pool) -> list[str]:
    """The marks in every key and value of the server, and in its logs of commands."""
    redis = raw(pool)
    found = marked(str(await dump(redis)))
    kinds = ("slow", "large-request", "large-reply")
    for log in (["SLOWLOG", "GET", "-1"], *(["COMMANDLOG", "GET", "-1", kind] for kind in kinds)):
        found += marked(str(await redis.execute_command(*log)))
    return found


async def persist(pool: Pool) -> None:
    """Have the server write a snapshot, and its append-only file anew."""
    redis = raw(pool)
    await redis.config_set("rdbcompression", "no")  # or a mark might not be found
    await redis.save()
    await redis.bgrewriteaof()
    while (await redis.info("persistence"))["aof_rewrite_in_progress"]:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.kills
async def test_nothing_said_is_at_rest(tmp_path: Path, backend: Simulator, sealed: bool) -> None:
    """With requests waiting, running and ended, rewritten or not, before and after kills, no key, value, file or log of
    the server holds what was said; nor do the payloads of failed requests that the pool keeps. Without a key the same
    search finds the prompts."""
    seen: list[str] = []
    home = tmp_path / "redis"
    async with EmbeddedServer(home, keeps=True) as server, farm(tmp_path, server.url) as opened:
        if not sealed:
            server.key_file.unlink()
        async with connect(server.url, keys=KeyRing(), unseals=True) as pool, Client(server.url) as client:
            await raw(pool).config_set("rdbcompression", "no")
            await pool.policies.write(Policy(max_starts=2, keep_payload=sealed))
            worker = await opened.worker("gpu0", backend, "--capacity", "1", shim=EVERY_LOG)
            await ask_everything(server.url)
            assert {record.payload_kept for record in await pool.records.failed()} == {sealed}
            seen += [*await in_server(pool), *on_disk(home)]
            held: dict[str, JsonValue] = {"simulate": FaultScript(pieces=WORDS, hold_after=2).model_dump(mode="json")}
            async with client.chat(PROMPT, role="planner", extra=held, metadata={"of": PROMPT}) as running:
                await backend.held()
                async with client.chat(PROMPT, role="planner", idempotency_key=PROMPT):
                    seen += [*await in_server(pool), *on_disk(home)]
                    await persist(pool)
                    seen += [*await in_server(pool), *on_disk(home)]
                    await worker.kill()
                    assert running.text
                    os.kill(pid_of(server), signal.SIGKILL)
                    await server.ended()
                    seen += on_disk(home)
                    await server.revive()
                    seen += [*await in_server(pool), *on_disk(home)]
        seen += marked(worker.out + worker.error)
    seen += on_disk(home)
    if sealed:
        assert seen == []
    else:
        assert {PROMPT} < {mark.partition(" ")[0] for mark in seen}
        assert any("appendonlydir" in mark for mark in seen)
        assert any("dump.rdb" in mark for mark in seen)
