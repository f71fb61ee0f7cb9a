"""`tokenlane demo`: a whole pool for a minute, with a real model, to see it work.

Everything but the asking is done by `tokenlane up` in a child process, which ends when this one does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tokenlane.config.cli.output import console as terminal
from tokenlane.config.cli.plain_text import one_line, running_text
from tokenlane.config.exit_codes import FAILED, OK
from tokenlane.config.host.child_processes import start_or_kill, wait_or_kill
from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.config.host.stop_signals import until_stopped
from tokenlane.config.settings.load import pool_keys
from tokenlane.producer.client import Client
from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.errors import LlmError

from .client_session import say

_QUESTIONS = {
    "planner": "Name three primes.",
    "coder": "What is the capital of France? Answer in one sentence.",
}
_MAX_TOKENS = 120
_TIME_TO_LIVE_MS = 120_000
_STOP_TIMEOUT_S = 60.0
_FRAMES_PER_S = 12
_TITLES = ("role", "lane", "model", "queued", "first token", "tokens/s", "prompt", "answer")
_TABLE_WIDTH = 72


@dataclass(eq=False)
class _Turn:
    """One question and what became of it."""

    role: str
    question: str
    text: str = ""
    lane: str = ""
    model: str = ""
    usage: Usage | None = None
    error: LlmError | None = None
    unprinted: str = field(default="", repr=False)


def demo(
    redis: Annotated[str | None, typer.Option(help="Use this Redis instead of an embedded server.")] = None,
) -> None:
    """Start everything, stream two answers from the model that `up` would serve, say how it went, stop everything."""
    code = list[int]()

    async def run() -> None:
        code.append(await _demo(redis))

    stopped = asyncio.run(until_stopped(run()))
    raise typer.Exit(code[0] if stopped is None else 128 + stopped)


async def _demo(redis: str | None) -> int:
    console = terminal()
    turns = [_Turn(role, question) for role, question in _QUESTIONS.items()]
    async with _pool(redis) as (process, facts):
        if facts is None:
            return await process.wait() or FAILED
        model = facts.get("model", f"as configured: {facts['provider']} at {facts['endpoint']}")
        console.print(
            Text(f"The model: {one_line(model)}.\nTo go on with it: `tokenlane up`, then `tokenlane chat`.\n"),
            soft_wrap=True,
        )
        for problem in facts["problems"]:
            console.print(Text(f"problem {problem}\n"), soft_wrap=True)
        show = _live if console.is_terminal else _plain
        # Its own pool's key is beside its socket.
        keys = pool_keys() if redis is not None else KeyRing()
        async with Client(facts["redis"], pool=facts["pool"], key=keys) as client:
            with show(turns, console):
                async with asyncio.TaskGroup() as tasks:
                    for turn in turns:
                        tasks.create_task(_ask(client, turn, console))
    for turn in turns:
        if turn.error is not None:
            say(f"{turn.role}: {turn.error}")
    console.print(_summary(turns, console.width))
    return OK if all(turn.error is None for turn in turns) else FAILED


@asynccontextmanager
async def _pool(redis: str | None) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, Any] | None]]:
    """A pool in a child process: the process, and what it says of itself; None if it does not come up."""
    command = [sys.executable, "-m", "tokenlane.config", "up", "--json", "--private", "--supervised"]
    process = await start_or_kill(
        asyncio.create_subprocess_exec(
            *command,
            *(("--redis", redis) if redis else ()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # the terminal's Ctrl-C is for us
        )
    )
    try:
        yield process, await _until_ready(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await wait_or_kill(process, _STOP_TIMEOUT_S)


async def _until_ready(process: asyncio.subprocess.Process) -> dict[str, Any] | None:
    assert process.stdout is not None
    facts: dict[str, Any] = {}
    async for line in process.stdout:
        said = json.loads(line)
        facts |= said
        if said.get("event") in ("ready", "waiting"):
            return facts
    return None


async def _ask(client: Client, turn: _Turn, console: Console) -> None:
    try:
        async with client.chat(
            turn.question, role=turn.role, max_tokens=_MAX_TOKENS, temperature=0.0, time_to_live_ms=_TIME_TO_LIVE_MS
        ) as stream:
            async for delta in stream:
                turn.text += delta.text
                turn.lane, turn.model = delta.lane, delta.model
                if not console.is_terminal:
                    _print_lines(turn, delta.text, console)
            turn.usage = stream.usage
    except LlmError as error:
        turn.error = error
    if not console.is_terminal:
        _print_lines(turn, "\n", console)


def _print_lines(turn: _Turn, text: str, console: Console) -> None:
    *lines, turn.unprinted = (turn.unprinted + running_text(text)).split("\n")
    for line in lines:
        console.print(Text(f"{turn.role:>8} | {line}"), soft_wrap=True)


@contextmanager
def _plain(turns: list[_Turn], console: Console) -> Iterator[None]:
    for turn in turns:
        console.print(Text(f"{turn.role:>8} > {turn.question}"), soft_wrap=True)
    yield
    console.print()


@contextmanager
def _live(turns: list[_Turn], console: Console) -> Iterator[None]:
    def render() -> Group:
        return Group(*(Panel(Text(running_text(turn.text)), title=f"{turn.role}: {turn.question}") for turn in turns))

    with Live(console=console, get_renderable=render, refresh_per_second=_FRAMES_PER_S):
        yield


def _summary(turns: list[_Turn], width: int) -> Table | Text:
    """How it went: a table, or where that would be too narrow to be read, a line for each figure."""
    rows = [(turn.role, turn.lane, turn.model, *_figures(turn.usage)) for turn in turns]
    if width < _TABLE_WIDTH:
        told = ("\n".join(f"{title}: {cell}" for title, cell in zip(_TITLES, row, strict=True)) for row in rows)
        return Text("\n\n".join(told), overflow="fold")
    table = Table(box=None, pad_edge=False)
    for title in _TITLES:
        table.add_column(title, justify="left" if title in ("role", "lane", "model") else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, map(one_line, row)))
    return table


def _figures(usage: Usage | None) -> list[str]:
    if usage is None:
        return ["failed", "", "", "", ""]
    streaming_s = (usage.total_ms - usage.first_token_ms) / 1000
    rate = f"{(usage.completion_tokens - 1) / streaming_s:.0f}" if streaming_s > 0 else ""
    queued, first = f"{usage.queue_ms:.0f} ms", f"{usage.first_token_ms:.0f} ms"
    return [queued, first, rate, str(usage.prompt_tokens), str(usage.completion_tokens)]
