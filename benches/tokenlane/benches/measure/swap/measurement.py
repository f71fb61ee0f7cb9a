"""Measures the first token of a long prompt: cold, and after its model has left the memory and come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from pydantic import BaseModel

from tokenlane.benches.measure.figures import Bar, line_of
from tokenlane.benches.measure.host.machine import describe_machine, describe_versions
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.worker.builtin import model as builtin_model
from tokenlane.worker.providers.openai.llamacpp import LlamaCppProvider

from .router import llamacpp_router

LIMIT_PERCENT = 15.0
_LINES_OF_A_PROMPT, _LINES_IF_QUICK = 114, 10


class Round(BaseModel):
    """One prompt, asked twice. `cached_tokens`: those that the server did not read again, as it counts them."""

    prompt_tokens: int
    cold_ms: float
    back_ms: float
    load_ms: float
    cached_tokens: int


class SwapCost(BaseModel):
    """The report of a whole measurement."""

    measured_at: str
    machine: str
    versions: str
    rounds: list[Round]
    bars: list[Bar]


async def measure(rounds: int, progress: Callable[[str], None], *, quick: bool = False) -> SwapCost:
    """Swap from model A to B and back for each round. Both are the built-in model, on servers of llama.cpp."""
    lines = _LINES_IF_QUICK if quick else _LINES_OF_A_PROMPT
    with TemporaryDirectory(prefix="tokenlane-swap-") as slots:  # with mode 0700
        file = await builtin_model.fetch()
        async with (
            llamacpp_router({"a": file, "b": file}, Path(slots)) as url,
            LlamaCppProvider(LaneSettings("bench", "llamacpp", url, keep_kv=True)) as provider,
        ):
            await provider.models()
            measured = []
            for number in range(rounds):
                measured.append(await _round(provider, number, lines))
                progress(f"round {number + 1} of {rounds}")
    share = 100 * median(each.back_ms / each.cold_ms for each in measured)
    uncached = max(each.prompt_tokens - each.cached_tokens for each in measured)
    return SwapCost(
        measured_at=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=describe_machine(),
        versions=describe_versions(),
        rounds=measured,
        bars=[
            Bar(name="first token after A, B, A, in % of a cold prompt's", measured=share, limit=LIMIT_PERCENT),
            Bar(name="tokens of a prompt that the server read again", measured=uncached, limit=1),
        ],
    )


async def _round(provider: LlamaCppProvider, number: int, lines: int) -> Round:
    clock = asyncio.get_running_loop().time
    prompt = " ".join(f"Line {line} of text {number} has apples and pears." for line in range(lines))
    await provider.load("a")
    cold_ms, _, _ = await _ask(provider, prompt)
    await provider.load("b")
    began_at = clock()
    await provider.load("a")
    load_ms = 1000 * (clock() - began_at)
    back_ms, tokens, cached = await _ask(provider, prompt)
    return Round(prompt_tokens=tokens, cold_ms=cold_ms, back_ms=back_ms, load_ms=load_ms, cached_tokens=cached)


async def _ask(provider: LlamaCppProvider, prompt: str) -> tuple[float, int, int]:
    """The milliseconds to the first token, the tokens of the prompt, and how many of them were cached."""
    clock = asyncio.get_running_loop().time
    message = Message(role="user", content=prompt)
    request = ChatRequest(role="bench", messages=[message], max_tokens=4, temperature=0)
    began_at, first_ms, tokens, cached = clock(), None, 0, 0
    async with aclosing(provider.chat(request, "a")) as deltas:
        async for delta in deltas:
            first_ms = first_ms or 1000 * (clock() - began_at)
            if delta.usage is not None:
                tokens, cached = delta.usage.prompt_tokens, delta.usage.cached_tokens
    return first_ms or 0.0, tokens, cached


def table(report: SwapCost) -> str:
    """Return the report as Markdown, for benches/README.md."""
    lines = [
        f"{report.measured_at}, {report.machine}; {report.versions}.",
        "",
        "| tokens of the prompt | first token, cold, ms | after A, B, A, ms | loading A, ms | cached tokens |",
        "|--:|--:|--:|--:|--:|",
        *(
            f"| {each.prompt_tokens} | {each.cold_ms:.0f} | {each.back_ms:.0f} | {each.load_ms:.0f} "
            f"| {each.cached_tokens} |"
            for each in report.rounds
        ),
        "",
    ]
    return "\n".join([*lines, *map(line_of, report.bars)])
