"""Asking a Redis server: commands that end in time, and errors of ours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

from redis import exceptions as redis_errors
from redis.asyncio import Redis

from tokenlane.config.host.unreached import why_unreached
from tokenlane.config.settings.values import masked
from tokenlane.routing.contract.errors import LlmError, PoolUnavailable

from .command_turns import Urgency, patience
from .redis_py import LOST, Connections, exchange, open_redis
from .redis_tls import tls_trouble
from .refusals import refused
from .replies import Reply

__all__ = ["as_ours", "ask", "asking", "command", "greet"]

COMMAND_TIMEOUT_S = 5.0


async def greet(url: str) -> None:
    """Find out whether a server answers there, at once.

    Raises:
        PoolUnavailable: none does, or it wants a password.
    """
    # Not through the patient client: a wrong URL should be told at once.
    async with open_redis(url, retries=0) as impatient:
        async with asking(url):
            await command(impatient, "PING")


def command(redis: Redis, *parts: bytes | str | int) -> Awaitable[Reply]:
    """One command in redis-py's way; to be awaited inside `asking`."""
    return cast("Awaitable[Reply]", redis.execute_command(*parts))  # type: ignore[no-untyped-call]  # in redis-py 5


async def ask(redis: Redis, url: str, *parts: bytes | str | int, urgency: Urgency = Urgency.USUAL) -> Reply:
    """Send one command when its turn has come; it has an end from then on, and its errors are ours.

    Args:
        urgency: who else that waits for a turn goes before it.

    Raises:
        LlmError: as `as_ours`.
        NoScriptError: the server does not have the script.
    """
    turns = cast("Connections", redis.connection_pool).turns
    if not turns.take_now():
        await turns.take(urgency)
    # As in `asking`, which itself costs as much as the command.
    bound = patience(COMMAND_TIMEOUT_S)
    try:
        async with bound:
            return await exchange(redis, *parts)
    except redis_errors.NoScriptError:
        raise
    except (redis_errors.RedisError, OSError) as error:
        ours = as_ours(error, url)
        if isinstance(error, LOST):
            turns.give_up(bound.since, partial(as_ours, error, url))
        raise ours from error
    finally:
        turns.give_back()


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[None]:
    """Around every other command: it has an end, and its errors are ours."""
    try:
        async with patience(COMMAND_TIMEOUT_S):
            yield
    except (redis_errors.RedisError, OSError) as error:
        raise as_ours(error, url) from error


def as_ours(error: redis_errors.RedisError | OSError, url: str) -> LlmError:
    """What a Redis error means."""
    where = masked(url)
    if isinstance(error, LOST) and isinstance(error.__cause__, redis_errors.RedisError):
        return as_ours(error.__cause__, url)  # how redis-py tells of a unix socket what the server said
    if (ours := refused(error, where)) is not None:
        return ours
    if isinstance(error, redis_errors.InvalidResponse):
        tls = "" if url.startswith("rediss://") else "; for one that speaks TLS the URL is rediss://"
        return PoolUnavailable(f"what answers at {where} is not a Redis server: check host and port{tls}")
    if url.startswith("rediss://") and (trouble := tls_trouble(error, where)):
        return PoolUnavailable(trouble)
    if isinstance(error, LOST) and _hung_up(error):
        return PoolUnavailable(
            f"the server at {where} closed the connection without an answer: it may take no more clients "
            "(maxclients), or speak TLS alone (rediss://)",
            retryable=True,
            retry_after_s=1.0,
        )
    if isinstance(error, LOST):
        why = _why_unreached(error)
        what = f"{why} Or start one here" if why else "start one"
        return PoolUnavailable(f"no Redis server answers at {where}: {what} with `tokenlane up`, or check the URL")
    return PoolUnavailable(f"the Redis server at {where} was not understood: {type(error).__name__}")


def _why_unreached(error: BaseException) -> str:
    """What kept a connection from being made, where redis-py's error came of that; nothing if it is not clear."""
    before = error.__cause__ or error.__context__
    if isinstance(before, OSError) and not isinstance(before, TimeoutError):  # a command's time may have passed
        return why_unreached(before)
    return _why_unreached(before) if before is not None else ""


def _hung_up(error: BaseException) -> bool:
    """Whether somebody was there, and hung up."""
    before = error.__cause__ or error.__context__
    words = "closed by server" in str(error) or isinstance(error, ConnectionResetError | BrokenPipeError)
    return words or (before is not None and _hung_up(before))
