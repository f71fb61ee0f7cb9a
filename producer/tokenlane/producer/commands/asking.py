"""One call of the client, for a verb: the pool found, errors told, SIGTERM obeyed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TypeVar

import typer

from tokenlane.config.exits import FAILED, USAGE
from tokenlane.config.load import find_pool, pool_name
from tokenlane.config.stopping import until_stopped
from tokenlane.producer.client import Client
from tokenlane.routing.errors import BadRequest, LlmError, PoolKeyMismatch, PoolUnavailable

__all__ = ["carry_out", "printable", "say"]

_Answer = TypeVar("_Answer")

_NEVER_SHOWN = {code: None for code in (*range(32), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def carry_out(
    ask: Callable[[Client], Coroutine[object, object, _Answer]], redis: str | None, pool: str | None
) -> _Answer:
    """Ask, and give the answer.

    Raises:
        typer.Exit: it failed, which was told, or a signal broke it off.
    """
    found, answers = find_pool(redis), list[_Answer]()
    client = Client(found.url, pool=pool_name(pool), key=found.keys)

    async def asking() -> None:
        async with client:
            answers.append(await ask(client))

    try:
        stopped = asyncio.run(until_stopped(asking()))
    except LlmError as error:
        say(f"{error}\n{error.detail}".rstrip())
        usage = isinstance(error, BadRequest | PoolUnavailable | PoolKeyMismatch)
        raise typer.Exit(USAGE if usage else FAILED) from None
    if stopped is not None:
        raise typer.Exit(128 + stopped)
    return answers[0]


def printable(text: str) -> str:
    """Text without control characters: a model's words must not move the cursor, set the title or the colours."""
    return text.translate(_NEVER_SHOWN)


def say(text: str) -> None:
    """Tell people something, on standard error."""
    typer.echo(f"tokenlane: {printable(text)}", err=True)
