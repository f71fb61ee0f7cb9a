"""redis-py as this project uses it: its private ways, and all that differs between version 5 and the newest.

ARQ keeps workers on version 5; an agent's base install gets the newest. Both are run by `make test-redis`.

- The newest speaks RESP3 unless it is told otherwise, in which a PING on a pub/sub connection is not answered by a
  message; version 5 does if the URL says so. Here both speak RESP2, whatever the URL says.
- The newest has a `socket_timeout` of 5 s. With one, redis-py sends through `asyncio.wait_for`, which swallows
  cancellations in Python 3.11. Here nothing has one: whoever asks bounds the call.
- Its pools lock, measure and dispatch events around each command. Here only what both versions share is used: the
  lists of free and of used connections.
- A transport may raise what it likes: uvloop a RuntimeError once its handle is closed. Whatever is raised while a
  connection is written to or read from, and is none of redis-py's errors, is a lost connection, which is tried again.
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

from tokenlane.config.settings.values import masked
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
"""What redis-py raises when it has no connection any more, or never had one."""

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
        options.pop("timeout", None)  # of a kind of pool that this is none of
        options["connection_class"] = _lasting(options.get("connection_class"))
        options["retry"] = _Retry(ExponentialBackoff(cap=0.5, base=0.02), retries)
        pool = Connections(**{"max_connections": most, **options})
        pool.make_connection()  # type: ignore[no-untyped-call]  # in redis-py 5; only this tells options it does not know
    return pool


def pubsub_connection(url: str, timings: Timings) -> AbstractConnection:
    """A connection for pub/sub, yet to be made; one try each time. Raises as `connections`."""
    pool = connections(url, 0, timings)
    return cast("AbstractConnection", pool.make_connection())  # type: ignore[no-untyped-call]  # in redis-py 5


def arq_settings(url: str) -> ArqRedisSettings:
    """Where ARQ's own client finds the server; it rides over a short outage."""
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
            f"{masked(url)!r} is not a Redis URL: give redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH"
        ) from error


class Connections(ConnectionPool):
    """A connection for each turn. One that is connected is used as it is: redis-py would first try to read from it, to
    find out whether it was cut meanwhile; asking finds that out too, and is tried again.

    redis-py tries again to connect and to ask, but not to greet: a connection cut in between would end a command.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.turns = Turns(self.max_connections)

    async def exchange(self, *parts: bytes | str | int) -> Reply:
        """Ask in a turn that was taken. The reply is as it comes, for half of what redis-py's own way costs.

        A connection that has been cut meanwhile costs none of the client's tries.
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
        """A connection for who has a turn; `put` it back before the turn ends."""
        return cast("AbstractConnection", self.get_available_connection())  # type: ignore[no-untyped-call]  # in redis-py 5

    def put(self, connection: AbstractConnection) -> None:
        """Keep the connection for the next."""
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)


async def _ask(connection: AbstractConnection, parts: tuple[bytes | str | int, ...]) -> Reply:
    packed = connection.pack_command(*parts) if _pack is None else _pack(parts)
    await connection.send_packed_command(packed)
    return cast("Reply", await connection.read_response())


async def _retried(connection: AbstractConnection, do: Callable[[], Awaitable[T]]) -> T:
    return cast("T", await connection.retry.call_with_retry(do, lambda _: connection.disconnect()))


class _Retry(Retry):
    """As redis-py's, but what a server has refused is not asked again: it has answered."""

    async def call_with_retry(self, do: Callable[[], Awaitable[T]], *args: Any, **options: Any) -> Any:
        refused: list[Exception] = []

        async def attempt() -> T:
            try:
                return await do()
            except (redis_errors.AuthenticationError, redis_errors.AuthorizationError) as error:
                refused.append(error)
            except redis_errors.ConnectionError as error:
                if not isinstance(error.__cause__, redis_errors.RedisError):  # as redis-py tells it of a unix socket
                    raise
                refused.append(error)
            raise _Refused

        with suppress(_Refused):
            return await super().call_with_retry(attempt, *args, **options)
        raise refused[0]


class _Refused(Exception):
    """The server has answered with an error that redis-py takes for one of the connection."""


class _Lasting:
    """Part of a connection class: whatever its transport raises is a lost connection, and what its URL names for TLS is
    read with bounds."""

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
    """The connection class of a URL, or that of plain TCP, made to last."""
    base = kind or Connection
    return type(base.__name__, (_Lasting, base), {})
