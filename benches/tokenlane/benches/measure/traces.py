"""Measures what traces cost: the throughput of worker and agent without spans, with the default, and with every span.

Three pairs of worker and agent answer at the same time, each pair with a Redis server of its own, so that whatever else
the machine does slows all pairs alike. The pairs are started several times, since two processes that run the same
program differ by about one percent. Two pairs send their spans by OTLP to a collector that discards them. Throughput is
the number of tokens in a second of CPU time of worker, agent and Redis server together: on a busy machine that is what
limits it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from statistics import fmean, median, stdev
from typing import Literal, TypeAlias

from aiohttp import web
from opentelemetry import trace
from pydantic import BaseModel
from redis.asyncio import Redis

from tokenlane.config.host.embedded_server import EmbeddedServer
from tokenlane.config.settings.values import TokenSpans

from . import clients, metronome
from .child_process import ChildProcess, Tasks, child_process
from .figures import Bar, line_of
from .host.machine import describe_machine, describe_versions

LIMIT_PERCENT = 6.0
"""Of these, more than 3 are the floor of OpenTelemetry's SDK: three spans without any attribute (decision 70)."""

Spans: TypeAlias = Literal["none", "default", "all"]
"""What a pair records: nothing, what the default settings record, or also a span for each published batch."""

_TOKEN_SPANS: dict[Spans, TokenSpans] = {"none": "off", "default": "sampled", "all": "all"}


@dataclass(frozen=True)
class Plan:
    """A measurement: after each start, so many rounds follow one that does not count. In a round, all pairs answer one
    question of so many tokens in each of so many streams."""

    streams: int
    tokens: int
    starts: int
    rounds: int
    spacing_ms: float


FULL = Plan(streams=64, tokens=128, starts=4, rounds=6, spacing_ms=30)
QUICK = Plan(streams=4, tokens=16, starts=1, rounds=2, spacing_ms=2)


class PairCost(BaseModel):
    """What a pair and its Redis server cost, in microseconds of CPU time a token (median of the rounds), and the
    throughput that the pair loses against the one without spans, in percent: the mean of the rounds, and its standard
    error."""

    spans: Spans
    worker_us: float
    agent_us: float
    server_us: float
    lost_percent: float
    error_percent: float


class TraceCost(BaseModel):
    """The report of a whole measurement."""

    measured_at: str
    machine: str
    versions: str
    tokens: int
    pairs: list[PairCost]
    bars: list[Bar]


def _export_to(collector: str, spans: Spans) -> None:
    """Have this process send its spans to the collector, every 5 s and in batches of 512, as the verbs do."""
    if spans == "none":
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{collector}/v1/traces")))
    trace.set_tracer_provider(provider)


@asynccontextmanager
async def worker(redis: str, endpoint: str, capacity: int, collector: str, spans: Spans) -> AsyncIterator[Tasks]:
    """Run the process of a pair's worker."""
    _export_to(collector, spans)
    async with clients.worker(redis, endpoint, capacity, token_spans=_TOKEN_SPANS[spans]) as tasks:
        yield tasks


@asynccontextmanager
async def agent(redis: str, collector: str, spans: Spans) -> AsyncIterator[Tasks]:
    """Run the process of a pair's agent."""
    _export_to(collector, spans)
    async with clients.agent(redis) as tasks:
        yield tasks


@asynccontextmanager
async def collector() -> AsyncIterator[Tasks]:
    """Run the process of a collector, which discards what it receives."""

    async def discard(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(content_type="application/x-protobuf")

    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/traces", discard)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]

        async def url() -> str:
            return f"http://127.0.0.1:{port}"

        yield {"url": url}
    finally:
        await runner.cleanup()


_Costs: TypeAlias = tuple[float, ...]
"""CPU time of worker, agent and server."""


@dataclass(frozen=True)
class _Pair:
    spans: Spans
    worker: ChildProcess
    agent: ChildProcess
    redis: Redis

    async def answer(self, plan: Plan) -> _Costs:
        """Answer the questions of a round. Returns the CPU seconds that the pair has used so far."""
        spread_s = plan.tokens * plan.spacing_ms / 1000
        await clients.ask_for_round(self.agent, streams=plan.streams, answers=1, tokens=plan.tokens, spread_s=spread_s)
        server = await self.redis.info("cpu")
        used = float(server["used_cpu_user"]) + float(server["used_cpu_sys"])
        return await self.worker.cpu_s(), await self.agent.cpu_s(), used


async def measure(plan: Plan, progress: Callable[[str], None] = lambda line: None) -> TraceCost:
    """Run the whole measurement.

    Args:
        progress: called with a line of text before each round.

    Raises:
        UserError: a process of the measurement exited early, or the embedded server did not start.
    """
    used: dict[Spans, list[_Costs]] = {spans: [] for spans in _TOKEN_SPANS}
    for start in range(plan.starts):
        async with _pairs(plan) as pairs:
            readings = [await _round(pairs, plan)]
            for number in range(plan.rounds):
                progress(f"start {start + 1} of {plan.starts}: round {number + 1} of {plan.rounds}")
                readings.append(await _round(pairs, plan))
        for pair, of_pair in zip(pairs, zip(*readings, strict=True), strict=True):
            used[pair.spans] += _of_rounds(of_pair, plan)
    costs = [_cost(spans, rounds, used["none"]) for spans, rounds in used.items()]
    lost = next(cost.lost_percent for cost in costs if cost.spans == "default")
    return TraceCost(
        measured_at=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=describe_machine(),
        versions=describe_versions(),
        tokens=plan.tokens,
        pairs=costs,
        bars=[Bar(name="throughput lost with the default, in percent", measured=lost, limit=LIMIT_PERCENT)],
    )


@asynccontextmanager
async def _pairs(plan: Plan) -> AsyncIterator[list[_Pair]]:
    async with child_process(metronome.metronome) as backend, AsyncExitStack() as stack:
        sink = await stack.enter_async_context(child_process(collector))
        to, endpoint = await sink.ask(str, "url"), await backend.ask(str, "url")
        await backend.ask(type(None), "pace", first_ms=10, spacing_ms=plan.spacing_ms)
        pairs = []
        for spans in _TOKEN_SPANS:
            server = await stack.enter_async_context(EmbeddedServer())
            redis = await stack.enter_async_context(Redis.from_url(server.url))
            serving = child_process(
                worker, redis=server.url, endpoint=endpoint, capacity=plan.streams, collector=to, spans=spans
            )
            working = await stack.enter_async_context(serving)
            await working.ask(bool, "ready")
            asking = await stack.enter_async_context(child_process(agent, redis=server.url, collector=to, spans=spans))
            pairs.append(_Pair(spans, working, asking, redis))
        yield pairs


async def _round(pairs: list[_Pair], plan: Plan) -> list[_Costs]:
    """Have all pairs answer at the same time. Returns the CPU seconds that each has used so far."""
    async with asyncio.TaskGroup() as tasks:
        answering = [tasks.create_task(pair.answer(plan)) for pair in pairs]
    return [task.result() for task in answering]


def _of_rounds(readings: Sequence[_Costs], plan: Plan) -> list[_Costs]:
    """The microseconds of CPU time a token in each round, from the CPU seconds before and after it."""
    scale = 1e6 / (plan.streams * plan.tokens)
    return [
        tuple(scale * (now - then) for now, then in zip(after, before, strict=True))
        for before, after in pairwise(readings)
    ]


def _cost(spans: Spans, rounds: Sequence[_Costs], without: Sequence[_Costs]) -> PairCost:
    lost = [100 * (1 - sum(bare) / sum(cost)) for cost, bare in zip(rounds, without, strict=True)]
    worker_us, agent_us, server_us = map(median, zip(*rounds, strict=True))
    return PairCost(
        spans=spans,
        worker_us=worker_us,
        agent_us=agent_us,
        server_us=server_us,
        lost_percent=fmean(lost),
        error_percent=stdev(lost) / len(lost) ** 0.5,
    )


def table(report: TraceCost) -> str:
    """Return the report as Markdown, for benches/README.md."""
    lines = [
        f"{report.measured_at}, {report.machine}; {report.versions}.",
        "",
        f"Answers of {report.tokens} tokens; CPU is microseconds a token.",
        "",
        "| spans | worker | agent | server | tokens a second of CPU | throughput lost |",
        "|---|--:|--:|--:|--:|--:|",
        *(
            f"| {cost.spans} | {cost.worker_us:.0f} | {cost.agent_us:.0f} | {cost.server_us:.0f} "
            f"| {1e6 / (cost.worker_us + cost.agent_us + cost.server_us):.0f} "
            f"| {cost.lost_percent:.1f} ± {cost.error_percent:.1f} % |"
            for cost in report.pairs
        ),
        "",
    ]
    return "\n".join([*lines, *map(line_of, report.bars)])
