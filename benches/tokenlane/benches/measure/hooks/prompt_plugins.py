"""Measures how long a worker takes to render a prompt with a plugin, and what of it is the plugin's call."""

from __future__ import annotations

import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles

from pydantic import BaseModel

from tokenlane.benches.measure.figures import Bar, line_of
from tokenlane.benches.measure.host.machine import describe_machine, describe_versions
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.worker.hooks.prompt_plugins import FUEL, PromptPlugins, digest_of
from tokenlane.worker.hooks.prompt_template import prompt_input
from tokenlane.worker.hooks.sandbox import Sandbox

LIMIT_US = 200.0
_WARM_UP = 100
_PLUGIN = b"""(module
  (memory (export "memory") 2)
  (data (i32.const 16) "{\\"system\\": \\"You are terse.\\", \\"suffix\\": \\"!\\"}")
  (data (i32.const 1024) "\\00\\00\\00\\00" "\\10\\00\\00\\00" "\\2b\\00\\00\\00")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 2048)
  (func (export "tokenlane:prompt/template@1.0.0#render") (param i32 i32) (result i32) i32.const 1024))"""
_REQUEST = ChatRequest(
    role="planner",
    messages=[Message(role="system", content="You plan. " * 100), Message(role="user", content="What is next? " * 30)],
    metadata={"day": "Monday", "team": "a"},
)


class PluginCost(BaseModel):
    """The report of a whole measurement, in microseconds. `render`: with all that happens to the request. `call`: the
    call in the sandbox alone."""

    measured_at: str
    machine: str
    versions: str
    calls: int
    render_p50_us: float
    render_p99_us: float
    call_p50_us: float
    call_p99_us: float
    bars: list[Bar]


async def measure(calls: int) -> PluginCost:
    """Render so many prompts, one after the other, with a plugin that does almost nothing."""
    render, call = await _render_us(calls), _call_us(calls)
    return PluginCost(
        measured_at=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=describe_machine(),
        versions=describe_versions(["wasmtime"]),
        calls=calls,
        render_p50_us=render[49],
        render_p99_us=render[98],
        call_p50_us=call[49],
        call_p99_us=call[98],
        bars=[Bar(name="a call in the sandbox, p50, in us", measured=call[49], limit=LIMIT_US)],
    )


async def _render_us(calls: int) -> list[float]:
    times = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "plugin.wat").write_bytes(_PLUGIN)
        plugins, digest = PromptPlugins(Path(folder)), digest_of(_PLUGIN)
        for _ in range(_WARM_UP + calls):
            began = time.perf_counter()
            await plugins.render(digest, _REQUEST, "llama3.3:70b")
            times.append(1e6 * (time.perf_counter() - began))
    return quantiles(times[_WARM_UP:], n=100)


def _call_us(calls: int) -> list[float]:
    sandbox, text, times = Sandbox(), prompt_input(_REQUEST, "llama3.3:70b"), []
    plugin = sandbox.compile(_PLUGIN)
    for _ in range(_WARM_UP + calls):
        began = time.perf_counter()
        sandbox.call(plugin, text, FUEL)
        times.append(1e6 * (time.perf_counter() - began))
    return quantiles(times[_WARM_UP:], n=100)


def table(report: PluginCost) -> str:
    """Return the report as Markdown, for benches/README.md."""
    lines = [
        f"{report.measured_at}, {report.machine}; {report.versions}; {report.calls} calls.",
        "",
        "| | p50, us | p99, us |",
        "|:--|--:|--:|",
        f"| a prompt rendered by a worker | {report.render_p50_us:.0f} | {report.render_p99_us:.0f} |",
        f"| of it, the call in the sandbox | {report.call_p50_us:.0f} | {report.call_p99_us:.0f} |",
        "",
    ]
    return "\n".join([*lines, *map(line_of, report.bars)])
