"""Measures how much later first tokens come while the gateway runs a batch at low priority."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from tempfile import TemporaryDirectory

import httpx
from pydantic import BaseModel

from tokenlane.benches.measure import clients, metronome
from tokenlane.benches.measure.child_process import ChildProcess, child_process
from tokenlane.benches.measure.figures import Bar, Times, line_of
from tokenlane.benches.measure.host.machine import describe_machine, describe_versions
from tokenlane.config.exit_codes import UserError
from tokenlane.config.host.embedded_server import EmbeddedServer
from tokenlane.routing.support.tasks import background

from .measurement import gateway

_LIMIT = 1.10
_SLOTS = 16
_CLIENTS = 2
_TOKENS = 8
_FIRST_MS, _SPACING_MS = 200.0, 10.0
_LOOK_S = 0.25


@dataclass(frozen=True)
class Plan:
    """So many pairs of phases, with a batch of so many lines in each; each client asks `answers` times in a row."""

    pairs: int
    lines: int
    answers: int


FULL = Plan(pairs=2, lines=1200, answers=50)
QUICK = Plan(pairs=1, lines=60, answers=2)


class BatchCost(BaseModel):
    """The report: first tokens without (`quiet`) and with a batch (`busy`), the model server's own time included."""

    measured_at: str
    machine: str
    versions: str
    lines: int
    lines_per_s: float
    quiet_first_ms: Times
    busy_first_ms: Times

    @property
    def bars(self) -> list[Bar]:
        """The bar: what a batch does to the p99."""
        ratio = self.busy_first_ms.p99 / self.quiet_first_ms.p99
        return [Bar(name="first token with a batch over without, p99", measured=ratio, limit=_LIMIT)]


async def measure(plan: Plan, progress: Callable[[str], None] = lambda line: None) -> BatchCost:
    """Run the whole measurement.

    Raises:
        UserError: a process exited early, an answer failed, or a line had not exactly one answer.
    """
    quiet: list[float] = []
    busy: list[float] = []
    took_s = 0.0
    with TemporaryDirectory() as files:
        async with (
            EmbeddedServer() as server,
            child_process(metronome.metronome) as backend,
            child_process(
                clients.worker, redis=server.url, endpoint=await backend.ask(str, "url"), capacity=_SLOTS
            ) as worker,
            child_process(gateway, redis=server.url, files=files) as door,
            child_process(clients.bare, endpoint=await door.ask(str, "url")) as asker,
            httpx.AsyncClient(base_url=await door.ask(str, "url"), timeout=60) as http,
        ):
            await worker.ask(bool, "ready")
            await backend.ask(type(None), "pace", first_ms=_FIRST_MS, spacing_ms=_SPACING_MS)
            await _first_ms(asker, plan.answers)
            for number in range(plan.pairs):
                progress(f"pair {number + 1} of {plan.pairs}")
                quiet += await _first_ms(asker, plan.answers)
                started = time.monotonic()
                async with background() as tasks:
                    batch = tasks.create_task(_run_batch(http, plan.lines))
                    while not batch.done():
                        first_ms = await _first_ms(asker, 2)
                        if not batch.done():
                            busy += first_ms
                    took_s += await batch - started
    return BatchCost(
        measured_at=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=describe_machine(),
        versions=describe_versions(),
        lines=plan.pairs * plan.lines,
        lines_per_s=plan.pairs * plan.lines / took_s,
        quiet_first_ms=Times.of(quiet),
        busy_first_ms=Times.of(busy),
    )


async def _first_ms(asker: ChildProcess, answers: int) -> list[float]:
    answer_s = (_FIRST_MS + _SPACING_MS * _TOKENS) / 1000
    times = await clients.ask_for_round(asker, streams=_CLIENTS, answers=answers, tokens=_TOKENS, spread_s=answer_s)
    return [time_ms + _FIRST_MS for time_ms in times.first_ms]


async def _run_batch(http: httpx.AsyncClient, lines: int) -> float:
    """Run a batch to its end, and check its output. Returns when it ended, by the monotonic clock."""
    body = {"model": metronome.MODEL, "messages": [{"role": "user", "content": "?"}], "max_tokens": _TOKENS}
    url = "/v1/chat/completions"
    text = "".join(
        json.dumps({"custom_id": str(number), "method": "POST", "url": url, "body": body}) + "\n"
        for number in range(lines)
    )
    upload = await http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("lines.jsonl", text.encode())})
    request = {"input_file_id": upload.raise_for_status().json()["id"], "endpoint": url, "completion_window": "24h"}
    batch = (await http.post("/v1/batches", json=request)).raise_for_status().json()
    while batch["status"] in ("validating", "in_progress", "finalizing"):
        await asyncio.sleep(_LOOK_S)
        batch = (await http.get(f"/v1/batches/{batch['id']}")).raise_for_status().json()
    ended = time.monotonic()
    if batch["status"] != "completed" or not batch["output_file_id"]:
        raise UserError(f"The measurement failed: its batch ended as {batch['status']} without answers. Run it again.")
    output = (await http.get(f"/v1/files/{batch['output_file_id']}/content")).raise_for_status().text
    if Counter(json.loads(line)["custom_id"] for line in output.splitlines()) != Counter(map(str, range(lines))):
        raise UserError("The measurement failed: not each line has exactly one answer. This is an error of tokenlane.")
    return ended


def table(report: BatchCost) -> str:
    """Return the report as Markdown, for benches/README.md."""
    cells = [("without a batch", report.quiet_first_ms), ("with a batch", report.busy_first_ms)]
    return "\n".join(
        [
            f"{report.measured_at}, {report.machine}; {report.versions}.",
            "",
            "| | first token p50, ms | p99, ms | samples |",
            "|:--|--:|--:|--:|",
            *(f"| {name} | {times.p50:.0f} | {times.p99:.0f} | {times.samples} |" for name, times in cells),
            "",
            f"Each of the {report.lines} lines has one answer in the output: {report.lines_per_s:.0f} lines a second.",
            "",
            *map(line_of, report.bars),
        ]
    )
