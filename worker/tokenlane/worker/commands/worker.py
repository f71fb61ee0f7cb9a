"""`tokenlane worker`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from tokenlane.config.exits import ConfigError, UserError
from tokenlane.config.load import debugging, find_pool, lane_settings, pool_name
from tokenlane.config.values import LaneSettings
from tokenlane.routing.errors import BadRequest, LaneConflict, LlmError, PoolKeyMismatch, PoolUnavailable
from tokenlane.worker.builtin.model import fetch
from tokenlane.worker.builtin.server import builtin_server
from tokenlane.worker.job import Lane
from tokenlane.worker.serve import DRAIN_S, run_worker

__all__ = ["run", "until_input_ends", "worker"]

BUILTIN_CAPACITY = 4


def worker(
    redis: Annotated[str | None, typer.Option(help="The pool's Redis, as redis://HOST:6379.")] = None,
    lane: Annotated[str | None, typer.Option(help="The lane's name; default HOST-PROVIDER.")] = None,
    provider: Annotated[str | None, typer.Option(help="builtin, llamacpp or openai; default builtin.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="The back end's URL; builtin starts its own.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model to serve; default all. May be repeated.")] = None,
    capacity: Annotated[int | None, typer.Option(help="Requests at once; default what the back end says.")] = None,
    drain: Annotated[float, typer.Option(help="Seconds for running requests to end in when stopped.")] = DRAIN_S,
    pool: Annotated[str | None, typer.Option(help="The pool's name; default main.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say in JSON when ready.")] = False,
    supervised: Annotated[bool, typer.Option(hidden=True, help="Stop when standard input ends.")] = False,
) -> None:
    """Serve one lane: one back end, usually one GPU. Ctrl-C drains, a second one stops at once."""
    settings = lane_settings(
        lane=lane, provider=provider, endpoint=endpoint, models=tuple(model or ()), capacity=capacity
    )
    transcripts = debugging("llm")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("tokenlane").setLevel(logging.INFO if transcripts else logging.WARNING)
    logging.getLogger("arq").setLevel(logging.ERROR)  # it warns of every outdated attempt
    serving = partial(
        run_worker,
        redis=find_pool(redis),
        pool_name=pool_name(pool),
        drain_s=drain,
        transcripts=transcripts,
        ready=partial(_tell, as_json=as_json),
    )
    raise typer.Exit(run(_serve(settings, serving, supervised)))


async def _serve(
    settings: LaneSettings, serving: Callable[..., Coroutine[object, object, int]], supervised: bool
) -> int:
    """Serve the lane, with a model server of its own if it needs one."""
    stopping = asyncio.Event()
    async with AsyncExitStack() as stack:
        if supervised:
            stack.enter_context(until_input_ends(stopping))
        if settings.provider == "builtin" and settings.endpoint is None:
            file = await fetch()
            capacity = settings.capacity or BUILTIN_CAPACITY
            endpoint = await stack.enter_async_context(builtin_server(file, capacity))
            settings = replace(settings, endpoint=endpoint)
        return await serving(settings, stopping=stopping)


@contextmanager
def until_input_ends(stopping: asyncio.Event) -> Iterator[None]:
    """Set the event when standard input, a pipe, ends: whoever started this process has died or wants it to stop."""
    loop, input_fd = asyncio.get_running_loop(), sys.stdin.fileno()

    def read() -> None:
        if not os.read(input_fd, 4096):
            loop.remove_reader(input_fd)
            stopping.set()

    loop.add_reader(input_fd, read)
    try:
        yield
    finally:
        loop.remove_reader(input_fd)


def run(serving: Coroutine[object, object, int]) -> int:
    """Run a worker to its end, on uvloop where it is there.

    Raises:
        ConfigError: no pool answers, the lane's name is taken, or there is no such provider.
        UserError: the back end, or the worker itself, failed.
    """
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(serving)
    except (PoolUnavailable, PoolKeyMismatch, LaneConflict, BadRequest) as error:
        raise ConfigError(str(error)) from error
    except LlmError as error:
        raise UserError(str(error)) from error


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


def _tell(lane: Lane, *, as_json: bool) -> None:
    announced = lane.announcement
    if as_json:
        line = json.dumps(
            {
                "event": "ready",
                "pool": lane.pool.keys.pool,
                "lane": announced.lane,
                "worker": lane.worker,
                "provider": announced.provider,
                "endpoint": announced.endpoint,
                "models": announced.models,
                "capacity": announced.limit,
            }
        )
    else:
        line = (
            f"pool {lane.pool.keys.pool!r}: lane {announced.lane!r} serves {', '.join(announced.models)} "
            f"from {announced.endpoint}, {announced.limit} at once"
        )
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
