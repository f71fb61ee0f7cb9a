"""All that differs between redis-py 5 and the newest, and all use of its private names.

ARQ keeps workers on version 5; an agent's base install gets the newest. `make test-redis` runs both.

- By default the newest speaks RESP3, in which the reply to PING on a pub/sub connection is no message; version 5 does
  if the URL says so. Here both speak RESP2.
- The newest has a `socket_timeout` of 5 s, with which redis-py sends through `asyncio.wait_for`, which swallows
  cancellations in Python 3.11. Here no connection has one: each caller bounds its call.
- The newest locks, measures and dispatches events around each command. Here only the lists of free and used connections
  are used, which both versions have.
- A transport may raise any error, as uvloop does once its handle is closed. An error that is not redis-py's is a lost
  connection, and the command is tried again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import unquote

from redis import exceptions as redis_errors
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from tokenlane.config.settings.values import masked_url
from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.store.replies.values import Reply

from .command_turns import Turns
from .timings import Timings
from .tls import with_files_read

if TYPE_CHECKING:
    from arq.connections import RedisSettings as ArqRedisSettings

try:
    from hiredis import pack_command
except ImportError:  # an agent's base install
    _pack = None
else:
    _pack = cast("Callable[[tuple[bytes | str | int, ...]], bytes] | None", pack_command)

T = TypeVar("T")

LOST = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError)
"""What redis-py raises without a connection."""

MOST_CONNECTIONS = 32
_ARQ_RETRIES = 10
_OURS: dict[str, Any] = {
    "protocol": 2,
    "socket_timeout": None,
    "decode_responses": False,
    "encoding": "utf-8",
    "encoding_errors": "strict",
    "health_check_interval": 0,
    "retry_on_timeout": False,
    "retry_on_error": list(LOST),
}
"""Whatever the URL says."""


def database_of(url: str) -> int:
    """The number of the database that the URL names.

    Raises:
        PoolUnavailable: the URL is none of a Redis server.
    """
    with _redis_url(url):
        return int(parse_url(url).get("db") or 0)


def connections(url: str, retries: int, timings: Timings, most: int = MOST_CONNECTIONS) -> Connections:
    """Connections to the server, of which none is made yet.

    Raises:
        PoolUnavailable: the URL is none of a Redis server.
        OSError: a file that it names for TLS cannot be read.
    """
    with _redis_url(url):
        options: dict[str, Any] = {"socket_connect_timeout": timings.connect_s, **parse_url(url), **_OURS}
        options.pop("timeout", None)  # for another kind of connection pool
        options["connection_class"] = _lasting(options.get("connection_class"))
        options["retry"] = _Retry(ExponentialBackoff(cap=0.5, base=0.02), retries)
        pool = Connections(**{"max_connections": most, **options})
        pool.make_connection()  # type: ignore[no-untyped-call]  # in redis-py 5; raises for unknown options
    return pool


def pubsub_connection(url: str, timings: Timings) -> AbstractConnection:
    """A pub/sub connection that is not made yet, and does not retry. Raises as `connections`."""
    pool = connections(url, 0, timings)
    return cast("AbstractConnection", pool.make_connection())  # type: ignore[no-untyped-call]  # in redis-py 5


def arq_settings(url: str) -> ArqRedisSettings:
    """The settings with which ARQ's client reaches the server, and retries during a short outage."""
    from arq.connections import RedisSettings  # agents have no ARQ

    found = RedisSettings.from_dsn(url)
    return replace(
        found,
        username=found.username and unquote(found.username),
        password=found.password and unquote(found.password),
        unix_socket_path=found.unix_socket_path and unquote(found.unix_socket_path),
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.02), _ARQ_RETRIES),
        retry_on_error=list(LOST),
    )


@contextmanager
def _redis_url(url: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, redis_errors.RedisError) as error:
        raise PoolUnavailable(
            f"{masked_url(url)!r} is not a Redis URL: give redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH"
        ) from error


class Connections(ConnectionPool):
    """A connection for each turn. A connected one is used without redis-py's check for a cut connection: a command on
    it fails then, and is tried again. So is connecting, where redis-py does not retry its greeting.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.turns = Turns(self.max_connections)

    async def exchange(self, *parts: bytes | str | int) -> Reply:
        """Send a command in a turn that was taken; its raw reply, at half the cost of redis-py's way.

        A connection that has been cut meanwhile costs none of the retries.
        """
        connection = self.get()
        try:
            if connection.is_connected:
                try:
                    return await _ask(connection, parts)
                except LOST:
                    await connection.disconnect()
            return cast("Reply", await _retried(connection, partial(_ask, connection, parts)))
        finally:
            self.put(connection)

    async def get_connection(self, *_: object, **__: object) -> AbstractConnection:
        await self.turns.take()
        connection = self.get()
        try:
            if not connection.is_connected:
                await _retried(connection, connection.connect)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        self.put(connection)
        self.turns.give_back()

    def get(self) -> AbstractConnection:
        """A connection for a turn; `put` it back before the turn ends."""
        return cast("AbstractConnection", self.get_available_connection())  # type: ignore[no-untyped-call]  # in redis-py 5

    def put(self, connection: AbstractConnection) -> None:
        """Keep the connection for the next turn."""
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)


async def _ask(connection: AbstractConnection, parts: tuple[bytes | str | int, ...]) -> Reply:
    packed = connection.pack_command(*parts) if _pack is None else _pack(parts)
    await connection.send_packed_command(packed)
    return cast("Reply", await connection.read_response())


async def _retried(connection: AbstractConnection, do: Callable[[], Awaitable[T]]) -> T:
    return cast("T", await connection.retry.call_with_retry(do, lambda _: connection.disconnect()))


class _Retry(Retry):
    """redis-py's, without retries of what the server has answered with an error."""

    async def call_with_retry(self, do: Callable[[], Awaitable[T]], *args: Any, **options: Any) -> Any:
        async def attempt() -> T | redis_errors.ConnectionError:
            try:
                return await do()
            except (redis_errors.AuthenticationError, redis_errors.AuthorizationError) as error:
                return error
            except redis_errors.ConnectionError as error:
                if not isinstance(error.__cause__, redis_errors.RedisError):  # as redis-py wraps it for a unix socket
                    raise
                return error

        outcome = await super().call_with_retry(attempt, *args, **options)
        if isinstance(outcome, redis_errors.ConnectionError):
            raise outcome
        return outcome


class _Lasting:
    """A mixin: an error of the transport is a lost connection, and files for TLS are read with bounds."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**with_files_read(options))

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        try:
            await super().send_packed_command(*args, **options)  # type: ignore[misc]  # of the other base
        except Exception as error:
            await self._end(error)
            raise

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)  # type: ignore[misc]  # of the other base
        except Exception as error:
            await self._end(error)
            raise

    async def disconnect(self, *args: Any, **options: Any) -> None:
        # redis-py forgets the streams first, also where closing them fails.
        with suppress(Exception):
            await super().disconnect(*args, **options)  # type: ignore[misc]  # of the other base

    async def _end(self, error: Exception) -> None:
        if not isinstance(error, redis_errors.RedisError | OSError):
            await self.disconnect(nowait=True)
            raise redis_errors.ConnectionError(f"the transport failed: {type(error).__name__}") from error


@cache
def _lasting(kind: type[AbstractConnection] | None) -> type[AbstractConnection]:
    """The connection class for a URL, or for plain TCP, with `_Lasting`."""
    base = kind or Connection
    return type(base.__name__, (_Lasting, base), {})
