"""`tokenlane demo`: starts a temporary pool with a real model, and streams two answers.

`demo_kill` is the demo with `--kill`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tokenlane.config.cli.output import console as new_console
from tokenlane.config.cli.output import note
from tokenlane.config.cli.plain_text import one_line, running_text
from tokenlane.config.exit_codes import FAILED, OK, ConfigError
from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.config.settings.load import configured_redis, pool_keys
from tokenlane.config.settings.values import TOY_PROVIDER
from tokenlane.producer.client import Client
from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.errors import LlmError

from .client_session import run_until_signal
from .demo_http import demo_http
from .demo_kill import demo_kill
from .temporary_pool import temporary_pool

_QUESTIONS = {
    "planner": "Name three primes.",
    "coder": "What is the capital of France? Answer in one sentence.",
}
_MAX_TOKENS = 120
_TIME_TO_LIVE_MS = 120_000
_FRAMES_PER_S = 12
_TITLES = ("role", "lane", "model", "queued", "first token", "tokens/s", "prompt", "answer")
_WIDEST = 1000
"""The width at which a table is measured: the measured width is at most the given one."""


@dataclass(eq=False)
class _Turn:
    """A question and its answer so far. `unprinted`: the last line of the answer, while it is incomplete."""

    role: str
    question: str
    text: str = ""
    lane: str = ""
    model: str = ""
    usage: Usage | None = None
    error: LlmError | None = None
    unprinted: str = field(default="", repr=False)


def demo(
    redis: Annotated[str | None, typer.Option(help="A Redis server to use instead of an embedded one.")] = None,
    kill: Annotated[
        bool, typer.Option("--kill", help="Kill a worker in mid-answer; another worker continues the answer.")
    ] = False,
) -> None:
    """Start a temporary pool with the model that `up` would serve, stream two answers, and ask again over HTTP.

    With `--kill`, two workers serve the built-in model, and one answer outlives the worker that began it.
    """
    if kill and configured_redis(redis, only_command_line=True) is not None:
        raise ConfigError("--kill changes the pool's policy, so it needs an embedded server: leave out --redis.")
    raise typer.Exit(run_until_signal(demo_kill() if kill else _demo(redis)))


async def _demo(redis: str | None) -> int:
    console = new_console()
    turns = [_Turn(role, question) for role, question in _QUESTIONS.items()]
    async with temporary_pool(*(("--redis", redis) if redis else ())) as (process, facts):
        if facts is None:
            return await process.wait() or FAILED
        model = facts.get("model", f"as configured: {facts['provider']} at {facts['endpoint']}")
        note(f"Model: {one_line(model)}.\n")
        for problem in facts["problems"]:
            note(f"problem {problem}\n")
        show = _live if console.is_terminal else _plain
        keys = (
            pool_keys() if redis is not None else KeyRing()
        )  # the client finds an embedded server's key by its socket
        async with Client(facts["redis"], pool=facts["pool"], key=keys) as client:
            with show(turns, console):
                async with asyncio.TaskGroup() as tasks:
                    for turn in turns:
                        tasks.create_task(_ask(client, turn, console))
        for turn in turns:
            if turn.error is not None:
                note(f"tokenlane: {turn.role}: {turn.error}", err=True)
        console.print(_summary(turns, console))
        note("")
        has_http = await demo_http(facts["redis"], facts["pool"])
    for step in _next_steps(facts["provider"]):
        note(step)
    return OK if has_http and all(turn.error is None for turn in turns) else FAILED


def _next_steps(provider: str) -> tuple[str, str]:
    """What to try after the demo: a pool that keeps running, then a real model or another host."""
    keep = "Next: `tokenlane up` keeps a pool running; ask it with `tokenlane chat`, or from Python (docs/agents.md)."
    if provider == TOY_PROVIDER:
        return keep, "      `tokenlane probe` shows how to get a real model in place of this toy."
    return keep, "      `tokenlane up --listen HOST`, then `tokenlane invite`, let other hosts add their model servers."


async def _ask(client: Client, turn: _Turn, console: Console) -> None:
    try:
        async with client.chat(
            turn.question, role=turn.role, max_tokens=_MAX_TOKENS, temperature=0.0, time_to_live_ms=_TIME_TO_LIVE_MS
        ) as stream:
            async for delta in stream:
                turn.text += delta.text
                turn.lane, turn.model = delta.lane, delta.model
                if not console.is_terminal:
                    _print_lines(turn, delta.text)
            turn.usage = stream.usage
    except LlmError as error:
        turn.error = error
    if not console.is_terminal:
        _print_lines(turn, "\n")


def _print_lines(turn: _Turn, text: str) -> None:
    *lines, turn.unprinted = (turn.unprinted + text).split("\n")
    for line in lines:
        note(f"{turn.role:>8} gets: {line}")


@contextmanager
def _plain(turns: list[_Turn], _: Console) -> Iterator[None]:
    for turn in turns:
        note(f"{turn.role:>8} asks: {turn.question}")
    yield
    note("")


@contextmanager
def _live(turns: list[_Turn], console: Console) -> Iterator[None]:
    def render() -> Group:
        return Group(*(Panel(Text(running_text(turn.text)), title=f"{turn.role}: {turn.question}") for turn in turns))

    with Live(console=console, get_renderable=render, refresh_per_second=_FRAMES_PER_S):
        yield


def _summary(turns: list[_Turn], console: Console) -> Table | Text:
    """The timing of all answers: the first table that fits the terminal, or else a line for each figure."""
    for titles in (_TITLES, [title for title in _TITLES if title != "model"]):  # the model is named above the answers
        table = Table(box=None, pad_edge=False)
        for title in titles:
            table.add_column(title, justify="left" if title in ("role", "lane", "model") else "right")
        for turn in turns:
            cells = _cells(turn)
            table.add_row(*(Text(one_line(cells[title])) for title in titles))
        if console.measure(table, options=console.options.update(width=_WIDEST)).maximum <= console.width:
            return table
    blocks = ("\n".join(f"{title}: {one_line(cell)}" for title, cell in _cells(turn).items()) for turn in turns)
    return Text("\n\n".join(blocks), overflow="fold")


def _cells(turn: _Turn) -> dict[str, str]:
    return dict(zip(_TITLES, (turn.role, turn.lane, turn.model, *_figures(turn.usage)), strict=True))


def _figures(usage: Usage | None) -> list[str]:
    if usage is None:
        return ["failed", "", "", "", ""]
    streaming_s = (usage.total_ms - usage.first_token_ms) / 1000
    rate = f"{(usage.completion_tokens - 1) / streaming_s:.0f}" if streaming_s > 0 else ""
    queued, first = f"{usage.queue_ms:.0f} ms", f"{usage.first_token_ms:.0f} ms"
    return [queued, first, rate, str(usage.prompt_tokens), str(usage.completion_tokens)]
