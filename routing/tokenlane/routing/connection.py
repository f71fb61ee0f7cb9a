"""The connection to a Redis server: patient clients, commands that end in time, and errors of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

from redis import exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from tokenlane.config.values import masked

from .errors import LlmError, PoolUnavailable, QueueFull
from .redis_tls import tls_trouble
from .replies import Reply

try:
    from hiredis import pack_command
except ImportError:  # an agent's base install
    _pack = None
else:
    _pack = cast("Callable[[tuple[bytes | str | int, ...]], bytes] | None", pack_command)

__all__ = ["as_ours", "asking", "command", "greet", "open_redis", "short_command"]

COMMAND_TIMEOUT_S = 5.0
_CONNECTION_ERRORS = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError)


def open_redis(url: str, *, retries: int = 5) -> Redis:
    """A client that rides over a server's restart: `retries` tries with growing pauses, for 5 a few seconds in all.

    It has no `socket_timeout`: with one, redis-py sends through `asyncio.wait_for`, which swallows cancellations in
    Python 3.11. Whoever uses it bounds its calls itself.

    Raises:
        PoolUnavailable: the URL is none of a Redis server.
    """
    try:
        pool: _Connections = _Connections.from_url(
            url,
            max_connections=32,
            timeout=None,
            socket_connect_timeout=COMMAND_TIMEOUT_S,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.02), retries),
            retry_on_error=list(_CONNECTION_ERRORS),
        )
        pool.connection_kwargs["decode_responses"] = False  # whatever the URL says
        pool.connection_class(**pool.connection_kwargs)  # only this tells options it does not know
    except (ValueError, TypeError, redis_errors.RedisError) as error:
        raise PoolUnavailable(
            f"{masked(url)!r} is not a Redis URL: give redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH"
        ) from error
    return Redis.from_pool(pool)


class _Connections(BlockingConnectionPool):
    """redis-py tries again to connect and to ask, but not to greet: a connection cut in between ends a command.

    One that is connected is used as it is. redis-py would first try to read from it, to find out whether it was cut
    meanwhile; asking finds that out too, and is tried again. Where nobody waits for one, none is locked for.
    """

    _waiting = 0

    async def get_connection(self, *_: object, **__: object) -> AbstractConnection:
        if self._waiting or not self.can_get_connection():
            self._waiting += 1
            try:
                return cast("AbstractConnection", await super().get_connection())
            finally:
                self._waiting -= 1
        connection: AbstractConnection = self.get_available_connection()  # type: ignore[no-untyped-call]  # in redis-py 5
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        if self._waiting:
            await super().release(connection)
        else:
            await ConnectionPool.release(self, connection)

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        if connection.is_connected:
            return
        await connection.retry.call_with_retry(
            lambda: super(_Connections, self).ensure_connection(connection), lambda _: connection.disconnect()
        )


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
    """One command; to be awaited inside `asking`."""
    return cast("Awaitable[Reply]", redis.execute_command(*parts))  # type: ignore[no-untyped-call]  # in redis-py 5


async def short_command(redis: Redis, *parts: bytes | str | int) -> Reply:
    """A command whose reply is taken as it comes, for half of what redis-py's way costs. Its caller bounds it."""
    connections = redis.connection_pool
    connection = await connections.get_connection()

    async def exchange() -> Reply:
        packed = connection.pack_command(*parts) if _pack is None else _pack(parts)
        await connection.send_packed_command(packed)
        return cast("Reply", await connection.read_response())

    async def give_up(error: Exception) -> None:
        await connection.disconnect()
        if not isinstance(error, _CONNECTION_ERRORS):
            raise error

    try:
        return cast("Reply", await connection.retry.call_with_retry(exchange, give_up))
    finally:
        await connections.release(connection)


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[None]:
    """Around every command: it has an end, and its errors are ours."""
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            yield
    except (redis_errors.RedisError, OSError) as error:
        raise as_ours(error, url) from error


def as_ours(error: redis_errors.RedisError | OSError, url: str) -> LlmError:
    """What a Redis error means. Their texts hold no keys' values, so they may be shown."""
    where = masked(url)
    match error:
        case redis_errors.AuthenticationError():
            return _wants_password(where)
        case redis_errors.OutOfMemoryError():
            return QueueFull(f"the Redis server at {where} is out of memory: send again later", retry_after_s=1.0)
        case redis_errors.InvalidResponse():
            return PoolUnavailable(f"what answers at {where} is not a Redis server: check host and port")
        case redis_errors.ConnectionError() | redis_errors.TimeoutError() | OSError():
            if isinstance(error.__cause__, redis_errors.AuthenticationError):  # how redis-py tells it of a unix socket
                return _wants_password(where)
            if isinstance(error.__cause__, redis_errors.ResponseError):  # and of what else it refused there
                return PoolUnavailable(f"the Redis server at {where} refused: {error.__cause__}")
            if url.startswith("rediss://") and (trouble := tls_trouble(error, where)):
                return PoolUnavailable(trouble)
            return PoolUnavailable(
                f"no Redis server answers at {where}: start one with `tokenlane up`, or check the URL"
            )
        case _:
            return PoolUnavailable(f"the Redis server at {where} refused: {error}")


def _wants_password(where: str) -> PoolUnavailable:
    return PoolUnavailable(
        f"the Redis server at {where} wants a password, or another one: put it into the URL, redis://:PASSWORD@HOST"
    )
