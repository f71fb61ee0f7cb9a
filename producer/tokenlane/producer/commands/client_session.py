"""One call of the client, for a verb: the pool found, errors told, SIGTERM obeyed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import typer

from tokenlane.config.cli.plain_text import running_text
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.stop_signals import until_stopped
from tokenlane.config.settings.load import find_pool, pool_name
from tokenlane.producer.client import Client
from tokenlane.producer.link.redis.pool_view import without_ages
from tokenlane.routing.commands.pool_session import as_user_error
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.support.tasks import background

_Answer = TypeVar("_Answer")

_PATIENCE_S = 2.0
_LOOK_AGAIN_S = 0.5


class Waits(Protocol):
    """Something that has been asked. `waiting`: why it has not started; None once it has."""

    @property
    def waiting(self) -> str | None: ...


def carry_out(
    ask: Callable[[Client], Coroutine[object, object, _Answer]], redis: str | None, pool: str | None
) -> _Answer:
    """Ask, and give the answer.

    Raises:
        UserError: it failed.
        typer.Exit: a signal broke it off.
    """
    found, answers = find_pool(redis), list[_Answer]()
    client = Client(found.url, pool=pool_name(pool), key=found.keys)

    async def asking() -> None:
        async with client:
            answers.append(await ask(client))

    try:
        stopped = asyncio.run(until_stopped(asking()))
    except LlmError as error:
        raise as_user_error(error, f"{error}\n{error.detail}".rstrip()) from None
    if stopped is not None:
        raise typer.Exit(128 + stopped)
    return answers[0]


def say(text: str) -> None:
    """Tell people something, on standard error."""
    typer.echo(f"tokenlane: {running_text(text)}", err=True)


def in_milliseconds(timeout: float) -> int:
    """A `--timeout`, as a request's time to live.

    Raises:
        ConfigError: it is no number of seconds.
    """
    if not math.isfinite(timeout):
        raise ConfigError("--timeout is a number of seconds.")
    return int(1000 * timeout)


@asynccontextmanager
async def telling_why(asked: Waits) -> AsyncIterator[None]:
    """Say why nothing has started yet, for as long as the block runs."""
    async with background() as tasks:
        tasks.create_task(tell_why(asked))
        yield


async def tell_why(asked: Waits) -> None:
    """Say why it has not started, after two seconds and whenever the reason is another one."""
    told = None
    await asyncio.sleep(_PATIENCE_S)
    while True:
        if asked.waiting is not None and without_ages(asked.waiting) != told:
            told = without_ages(asked.waiting)
            say(f"not started yet: {asked.waiting}")
        await asyncio.sleep(_LOOK_AGAIN_S)
