"""`tokenlane models`: lists, pulls, verifies, loads and unloads the models of lanes."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Annotated, Literal

import typer

from tokenlane.config.cli.download_bar import download_bar
from tokenlane.config.cli.output import Table, show, show_json
from tokenlane.config.cli.plain_text import json_text, one_line
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.cli.sentences import counted
from tokenlane.producer.client import Client
from tokenlane.producer.models import Models
from tokenlane.routing.commands import completion
from tokenlane.routing.contract.results import ModelInfo, Progress
from tokenlane.routing.support.byte_sizes import format_bytes

from .client_session import client_session

_PRINT_BYTES_EVERY_S = 2.0
_PRINT_WAITING_EVERY_S = 60.0
"""How often to repeat a line in which only numbers have changed, such as a lane's age."""
_YES_OR_NO = {True: "yes", False: "no", None: "-"}
_NUMBERS = re.compile(r"\d+")

models = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

_Model = Annotated[
    str,
    typer.Argument(
        help="The model's name, as the lane's model server writes it.",
        metavar="MODEL",
        autocompletion=completion.models,
    ),
]
_Lane = Annotated[
    str | None,
    typer.Option(help="The lane; required if several lanes are open.", autocompletion=completion.lanes),
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_JsonLines = Annotated[bool, typer.Option("--json", help="Print each progress report as a line of JSON.")]


@models.command()
def ls(
    lane: Annotated[str | None, typer.Option(help="List only this lane.", autocompletion=completion.lanes)] = None,
    as_json: _Json = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """List the models of all open lanes."""
    listed = client_session(lambda client: client.models(lane=lane), redis, pool)
    if as_json:
        show_json({"models": [info.model_dump() for info in listed]})
    else:
        show(_table(listed))


@models.command()
def pull(
    model: _Model, lane: _Lane = None, as_json: _JsonLines = False, redis: RedisUrl = None, pool: PoolName = None
) -> None:
    """Download a model onto a lane. Ctrl-C stops the download, and another `pull` resumes it."""
    _follow("pull", model, lane, as_json, redis, pool)


@models.command()
def verify(
    model: _Model, lane: _Lane = None, as_json: _Json = False, redis: RedisUrl = None, pool: PoolName = None
) -> None:
    """Check a model against its pinned digest, and print the digest. Exit code 1 if it differs."""
    info = client_session(lambda client: client.verify(model, lane=lane), redis, pool)
    if as_json:
        show_json(info.model_dump())
    else:
        typer.echo(one_line(f"{info.digest}  {info.name}"))


@models.command()
def load(
    model: _Model, lane: _Lane = None, as_json: _JsonLines = False, redis: RedisUrl = None, pool: PoolName = None
) -> None:
    """Load a model into a lane's memory."""
    _follow("load", model, lane, as_json, redis, pool)


@models.command()
def unload(
    model: _Model, lane: _Lane = None, as_json: _JsonLines = False, redis: RedisUrl = None, pool: PoolName = None
) -> None:
    """Unload a model from a lane's memory."""
    _follow("unload", model, lane, as_json, redis, pool)


def _follow(
    action: Literal["pull", "load", "unload"],
    model: str,
    lane: str | None,
    as_json: bool,
    redis: str | None,
    pool: str | None,
) -> None:
    """Send a model command to a lane, and show its progress."""

    async def ask(client: Client) -> None:
        with _progress_display(as_json) as display:
            async with aclosing(Models(client.link, client.agent).follow(action, model, lane)) as steps:
                async for progress in steps:
                    display(progress)

    client_session(ask, redis, pool)
    typer.echo(json_text({"done": action, "model": model}) if as_json else f"{action}ed {one_line(model)}")


@contextmanager
def _progress_display(as_json: bool) -> Iterator[Callable[[Progress], None]]:
    """Yield a function that shows progress: as JSON, as a bar on a terminal, or as lines elsewhere."""
    if as_json:
        yield lambda progress: typer.echo(json_text(progress.model_dump()))
    elif not sys.stdout.isatty():
        yield ProgressLines()
    else:
        with download_bar() as show_bar:
            show_bar("waiting", 0, None)
            yield lambda progress: show_bar(one_line(progress.step), progress.done_bytes, progress.total_bytes)


class ProgressLines:
    """Prints a line when a step begins, and then a line every few seconds."""

    def __init__(self) -> None:
        self._step, self._print_at = ("", False), 0.0
        self._step_began = 0.0, 0

    def __call__(self, progress: Progress) -> None:
        now = asyncio.get_running_loop().time()
        step = _NUMBERS.sub("", progress.step), progress.total_bytes is not None
        if step != self._step:
            self._step_began = now, progress.done_bytes
        elif now < self._print_at:
            return
        self._step = step
        self._print_at = now + (_PRINT_BYTES_EVERY_S if progress.done_bytes else _PRINT_WAITING_EVERY_S)
        typer.echo(one_line(_with_speed(progress, *self._step_began, now)))


def _with_speed(progress: Progress, began_at: float, bytes_before: int, now: float) -> str:
    """The progress with its speed since the step began, and the time left at this speed."""
    done, total = progress.done_bytes, progress.total_bytes
    if not total:
        return str(progress)
    line = f"{progress}, {100 * done // total} %"
    speed = (done - bytes_before) / (now - began_at) if now > began_at else 0.0
    return f"{line}, {format_bytes(speed)}/s, {(total - done) / speed:.0f} s left" if speed > 0 else line


def _table(listed: list[ModelInfo]) -> Table:
    headings = ("MODEL", "LANE", "PROVIDER", "LOADED", "OFFERED", "SIZE", "QUANT", "CONTEXT", "CAN", "DIGEST")
    any_pinned = any(info.pinned_by for info in listed)
    any_kv = any(info.kv_tokens_kept is not None for info in listed)
    rows = [
        (
            info.name,
            info.lane,
            info.provider,
            _YES_OR_NO[info.loaded],
            f"no: {info.not_offered_because}" if info.not_offered_because else _YES_OR_NO[info.offered],
            "-" if info.size_bytes is None else format_bytes(info.size_bytes),
            info.quantisation or "-",
            "-" if info.context_length is None else str(info.context_length),
            ", ".join(info.capabilities) or "-",
            (info.digest or "-").removeprefix("sha256:")[:12],  # like Ollama's list; `verify` prints the whole digest
            *((info.pinned_by or "-",) if any_pinned else ()),
            *((kv_text(info.kv_tokens_kept, info.kv_lost_because),) if any_kv else ()),
        )
        for info in listed
    ]
    more = (*(("PINNED BY",) if any_pinned else ()), *(("KV CACHE",) if any_kv else ()))
    return Table((*headings, *more), rows, {})


def kv_text(tokens: int | None, lost_because: str) -> str:
    """What became of a model's KV cache when its lane loaded the model again, in words."""
    if tokens is None:
        return "-"
    kept = f"KV cache of {counted(tokens, 'token', 'tokens')} kept"
    if not lost_because:
        return kept
    return f"{kept}, the rest lost: {lost_because}" if tokens else f"KV cache lost: {lost_because}"
