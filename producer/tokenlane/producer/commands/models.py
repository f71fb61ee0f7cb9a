"""`tokenlane models`: what lanes have, and what is done with it."""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import aclosing
from typing import Annotated, Literal

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from tokenlane.config.cli.output import Table, console, show, show_json
from tokenlane.config.cli.plain_text import json_text, one_line
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.producer.client import Client
from tokenlane.producer.models import Models
from tokenlane.routing.commands import completion
from tokenlane.routing.contract.results import ModelInfo, Progress
from tokenlane.routing.support.byte_sizes import sized

from .client_session import carry_out

_SAY_EVERY_S = 2.0
_SAY_WAITING_EVERY_S = 60.0
"""Where nothing changes but numbers in words, as for how long a lane has been away."""
_NUMBERS = re.compile(r"\d+")

models = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

_Model = Annotated[
    str,
    typer.Argument(
        help="The model, as the lane's provider names it.", metavar="MODEL", autocompletion=completion.models
    ),
]
_Lane = Annotated[
    str | None, typer.Option(help="The lane; may be left out where only one is open.", autocompletion=completion.lanes)
]
_Json = Annotated[bool, typer.Option("--json", help="As JSON; of what takes time, one object a line.")]


@models.command()
def ls(
    lane: Annotated[str | None, typer.Option(help="Of this lane alone.", autocompletion=completion.lanes)] = None,
    as_json: _Json = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """List the models of all open lanes."""

    async def ask(client: Client) -> list[ModelInfo]:
        return await client.models(lane=lane)

    found = carry_out(ask, redis, pool)
    if as_json:
        show_json({"models": [info.model_dump() for info in found]})
    else:
        show(_table(found))


@models.command()
def pull(
    model: _Model, lane: _Lane = None, as_json: _Json = False, redis: RedisUrl = None, pool: PoolName = None
) -> None:
    """Have a lane fetch a model. Ctrl-C stops the download; pulling again goes on from there."""
    _follow("pull", model, lane, as_json, redis, pool)


@models.command()
def verify(
    model: _Model, lane: _Lane = None, as_json: _Json = False, redis: RedisUrl = None, pool: PoolName = None
) -> None:
    """Print a model's digest; exit code 1 if it is not the one that is pinned."""

    async def ask(client: Client) -> ModelInfo:
        return await client.verify(model, lane=lane)

    found = carry_out(ask, redis, pool)
    if as_json:
        show_json(found.model_dump())
    else:
        typer.echo(one_line(f"{found.digest}  {found.name}"))


@models.command()
def load(
    model: _Model, lane: _Lane = None, as_json: _Json = False, redis: RedisUrl = None, pool: PoolName = None
) -> None:
    """Have a lane load a model into memory."""
    _follow("load", model, lane, as_json, redis, pool)


@models.command()
def unload(
    model: _Model, lane: _Lane = None, as_json: _Json = False, redis: RedisUrl = None, pool: PoolName = None
) -> None:
    """Have a lane free a model's memory."""
    _follow("unload", model, lane, as_json, redis, pool)


def _follow(
    action: Literal["pull", "load", "unload"],
    model: str,
    lane: str | None,
    as_json: bool,
    redis: str | None,
    pool: str | None,
) -> None:
    """Have it done, and show how far it is."""

    async def ask(client: Client) -> None:
        with _Shown(as_json) as shown:
            async with aclosing(Models(client.link, client.agent).follow(action, model, lane)) as steps:
                async for progress in steps:
                    shown(progress)

    carry_out(ask, redis, pool)
    if as_json:
        _line({"done": action, "model": model})
    else:
        typer.echo(f"{action}ed {one_line(model)}")


class _Shown:
    """Shows progress: a bar on a terminal, else a line where there is something to say."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._bars: Bars | None = None
        self._bar = TaskID(0)
        self._part, self._say_at = ("", False), 0.0
        self._from: tuple[float, int] | None = None

    def __enter__(self) -> _Shown:
        if not self._as_json and sys.stdout.isatty():
            self._bars = Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=console(),
            )
            self._bar = self._bars.add_task("asking", total=None)
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, progress: Progress) -> None:
        if self._as_json:
            _line(progress.model_dump())
        elif self._bars is not None:
            self._bars.update(
                self._bar,
                description=one_line(progress.step),
                completed=progress.done_bytes,
                total=progress.total_bytes,
            )
        else:
            self._say(progress)

    def _say(self, progress: Progress) -> None:
        now = asyncio.get_running_loop().time()
        part = _NUMBERS.sub("", progress.step), progress.total_bytes is not None
        if part == self._part and now < self._say_at:
            return
        if part != self._part or self._from is None:
            self._from = now, progress.done_bytes
        self._part, self._say_at = part, now + (_SAY_EVERY_S if progress.done_bytes else _SAY_WAITING_EVERY_S)
        typer.echo(one_line(_told(progress, *self._from, now)))


def _told(progress: Progress, since: float, start_bytes: int, now: float) -> str:
    """One line: step, bytes, and from what came since when, speed and time left."""
    done, total = progress.done_bytes, progress.total_bytes
    if not total:
        return str(progress)
    line = f"{progress}, {100 * done // total} %"
    speed = (done - start_bytes) / (now - since) if now > since else 0.0
    return f"{line}, {sized(speed)}/s, {(total - done) / speed:.0f} s left" if speed > 0 else line


def _table(found: list[ModelInfo]) -> Table:
    headings = ("MODEL", "LANE", "PROVIDER", "LOADED", "SIZE", "QUANT", "CONTEXT", "CAN", "DIGEST")
    rows = [
        (
            info.name,
            info.lane,
            info.provider,
            {True: "yes", False: "no", None: "-"}[info.loaded],
            "-" if info.size_bytes is None else sized(info.size_bytes),
            info.quantisation or "-",
            "-" if info.context_length is None else str(info.context_length),
            ", ".join(info.capabilities) or "-",
            _short(info.digest),
        )
        for info in found
    ]
    return Table(headings, rows, {})


def _short(digest: str | None) -> str:
    """Enough of a digest to tell models apart, as Ollama's own list has it; `verify` and JSON have all of it."""
    return "-" if digest is None else digest.removeprefix("sha256:")[:12]


def _line(document: dict[str, object]) -> None:
    typer.echo(json_text(document))
