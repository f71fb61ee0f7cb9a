"""Runs a command's call of the client: finds the pool, explains why requests wait, and handles errors and signals."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Literal, Protocol, TypeAlias, TypeVar

import typer

from tokenlane.config.cli.output import note
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.stop_signals import until_stopped
from tokenlane.config.settings.load import find_pool, pool_name
from tokenlane.producer.client import Client
from tokenlane.routing.commands import completion
from tokenlane.routing.commands.pool_session import error_for_user
from tokenlane.routing.contract.errors import DeadlineExceeded, LlmError
from tokenlane.routing.contract.requests import DEFAULT_TIME_TO_LIVE_MS
from tokenlane.routing.decide.wait_cause import without_passing_times
from tokenlane.routing.support.tasks import background

Role: TypeAlias = Annotated[
    str, typer.Option(help="The role by which the pool routes the request.", autocompletion=completion.roles)
]
Model: TypeAlias = Annotated[str | None, typer.Option(help="The model to ask.", autocompletion=completion.models)]
Priority: TypeAlias = Annotated[Literal["high", "normal", "low"], typer.Option(help="The request's priority.")]
Timeout: TypeAlias = Annotated[float | None, typer.Option(help="Give up after this many seconds.", min=0.001)]

_Answer = TypeVar("_Answer")

_EXPLAIN_AFTER_S = 2.0
_CHECK_EVERY_S = 0.5


class Waiting(Protocol):
    """An open request. `waiting`: why it has not started, or why its answer does not go on; None while it runs."""

    @property
    def waiting(self) -> str | None: ...


def client_session(
    ask: Callable[[Client], Coroutine[object, object, _Answer]],
    redis: str | None,
    pool: str | None,
    *,
    has_timeout: bool = False,
) -> _Answer:
    """Open a client of the pool that a command's options name, call `ask` with it, and return the result.

    Args:
        has_timeout: whether the command has the option `--timeout`.

    Raises:
        UserError: the call failed.
        typer.Exit: a signal cancelled the call.
    """
    server = find_pool(redis)
    client = Client(server.url, pool=pool_name(pool), key=server.keys)

    async def session() -> _Answer:
        async with client:
            return await ask(client)

    try:
        return run_until_signal(session())
    except LlmError as error:
        raise error_for_user(error, error_text(error, has_timeout=has_timeout)) from None


def error_text(error: LlmError, *, has_timeout: bool) -> str:
    """The error's message and detail. If the deadline has passed, the message names the option, not the field."""
    text = f"{error}\n{error.detail}".rstrip()
    is_late = has_timeout and isinstance(error, DeadlineExceeded)
    return text.replace("time_to_live_ms", "--timeout") if is_late else text


def run_until_signal(work: Coroutine[object, object, _Answer]) -> _Answer:
    """Run the work and return its result.

    Raises:
        typer.Exit: a signal cancelled the work.
        KeyboardInterrupt: Ctrl-C cancelled the work.
    """
    results: list[_Answer] = []

    async def run() -> None:
        results.append(await work)

    stopped = asyncio.run(until_stopped(run()))
    if stopped is not None:
        raise typer.Exit(128 + stopped)
    return results[0]


def time_to_live_ms(timeout: float | None) -> int:
    """Convert the value of `--timeout`, in seconds, to a request's time to live in milliseconds.

    Raises:
        ConfigError: the value is not a finite number.
    """
    if timeout is not None and not math.isfinite(timeout):
        raise ConfigError("--timeout must be a finite number of seconds.")
    return DEFAULT_TIME_TO_LIVE_MS if timeout is None else int(1000 * timeout)


def explain_start(why: str) -> None:
    """Print why a request has not started."""
    note(f"tokenlane: not started yet: {why}", err=True)


@asynccontextmanager
async def explaining_wait(request: Waiting, explain: Callable[[str], None] = explain_start) -> AsyncIterator[None]:
    """Explain why the request waits, for as long as the block runs."""
    async with background() as tasks:
        tasks.create_task(explain_wait(request, explain))
        yield


async def explain_wait(request: Waiting, explain: Callable[[str], None] = explain_start) -> None:
    """Explain why the request waits: after two seconds, and again whenever the reason changes."""
    printed = None
    await asyncio.sleep(_EXPLAIN_AFTER_S)
    while True:
        why = request.waiting
        if why is not None and without_passing_times(why) != printed:
            printed = without_passing_times(why)
            explain(why)
        await asyncio.sleep(_CHECK_EVERY_S)
