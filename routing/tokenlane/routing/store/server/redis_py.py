"""Redis connections that behave the same with redis-py 5 and with the newest redis-py.

ARQ requires redis-py 5, so workers have that version; an agent's base install has the newest version. `make test-redis`
tests both. Only this module and `connection_classes` use private names of redis-py. They even out these differences:

- The newest version uses RESP3 by default, in which PING on a pub/sub connection has no message as its reply. Version 5
  uses RESP3 if the URL says so. Here both versions use RESP2.
- The newest version sets a `socket_timeout` of 5 s. With a time-out, redis-py sends through `asyncio.wait_for`, which
  swallows cancellations in Python 3.11. Here connections have no `socket_timeout`, and callers limit the time.
- The newest version takes locks, measures time and dispatches events for each command. Here commands use only the lists
  of free and used connections, which both versions have.
- A transport may raise any exception, as uvloop's does after its handle was closed. Here an exception that is neither
  redis-py's nor an OSError counts as a lost connection, and the command is retried.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import unquote

from redis import exceptions as redis_errors
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from tokenlane.config.settings.values import masked_url
from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.store.replies.values import Reply

from .command_limits import PrioritySemaphore
from .connection_classes import Demoted, PrimaryFinder, connection_class, greet_primary, has_moved
from .timings import Timings

if TYPE_CHECKING:
    from arq.connections import ArqRedis
    from arq.connections import RedisSettings as ArqRedisSettings

try:
    from hiredis import pack_command
except ImportError:  # an agent's base install
    _pack = None
else:
    _pack = cast("Callable[[tuple[bytes | str | int, ...]], bytes] | None", pack_command)

T = TypeVar("T")

CONNECTION_ERRORS = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError)
"""The errors that redis-py raises if a connection cannot be opened, is lost, or times out."""

MAX_CONNECTIONS = 32
_ARQ_RETRIES = 10
_ARQ_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
"""The options for TLS that ARQ passes on to redis-py."""
_OURS: dict[str, Any] = {
    "protocol": 2,
    "socket_timeout": None,
    "decode_responses": False,
    "encoding": "utf-8",
    "encoding_errors": "strict",
    "health_check_interval": 0,
    "retry_on_timeout": False,
    "retry_on_error": list(CONNECTION_ERRORS),
}
"""Options that the URL cannot override."""


def database_of(url: str, finder: PrimaryFinder | None = None) -> int:
    """The database number in a Redis URL.

    Raises:
        PoolUnavailable: the URL is not a Redis URL.
    """
    with _redis_url(url, finder):
        return int(parse_url(url).get("db") or 0)


def connections(
    url: str,
    retries: int,
    timings: Timings,
    max_in_flight: int = MAX_CONNECTIONS,
    finder: PrimaryFinder | None = None,
) -> Connections:
    """A connection pool for a server. It opens a connection only when a command needs one.

    Args:
        finder: finds the server's host and port, each time a connection is opened; None if the URL has them.

    Raises:
        PoolUnavailable: the URL is not a Redis URL.
        OSError: a TLS file that the URL names cannot be read.
    """
    with _redis_url(url, finder):
        options: dict[str, Any] = {"socket_connect_timeout": timings.connect_s, **_url_options(url), **_OURS}
        options.pop("timeout", None)  # an option of redis-py's BlockingConnectionPool
        base = options.get("connection_class")
        options["connection_class"] = connection_class(base, finds_primary=finder is not None)
        options["retry"] = _Retry(ExponentialBackoff(cap=0.5, base=0.02), retries)
        if finder is not None:
            options |= {"finder": finder, "redis_connect_func": greet_primary}
        pool = Connections(**{"max_connections": max_in_flight, **options})
        pool.make_connection()  # type: ignore[no-untyped-call]  # in redis-py 5; raises for unknown options
    return pool


def pubsub_connection(url: str, timings: Timings, finder: PrimaryFinder | None = None) -> AbstractConnection:
    """A pub/sub connection, not opened yet, that does not retry. Raises the same errors as `connections`."""
    pool = connections(url, 0, timings, finder=finder)
    return cast("AbstractConnection", pool.make_connection())  # type: ignore[no-untyped-call]  # in redis-py 5


def arq_settings(url: str) -> ArqRedisSettings:
    """The settings for ARQ's Redis client, with retries that outlast a short outage."""
    from arq.connections import RedisSettings  # agents have no ARQ

    parsed = RedisSettings.from_dsn(url)
    tls: dict[str, Any] = {name: value for name, value in _url_options(url).items() if name in _ARQ_TLS}
    return replace(
        parsed,
        **tls,
        username=parsed.username and unquote(parsed.username),
        password=parsed.password and unquote(parsed.password),
        unix_socket_path=parsed.unix_socket_path and unquote(parsed.unix_socket_path),
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.02), _ARQ_RETRIES),
        retry_on_error=list(CONNECTION_ERRORS),
    )


def arq_client(pool: Connections) -> ArqRedis:
    """ARQ's Redis client with a connection pool of ours."""
    from arq.connections import ArqRedis

    return ArqRedis(pool)


def _url_options(url: str) -> dict[str, Any]:
    """The options of redis-py's connections in a URL. A certificate must be for the URL's host, unless the URL says
    otherwise: redis-py before version 6 accepts one for any host."""
    options = dict(parse_url(url))
    if url.startswith("rediss"):
        options.setdefault("ssl_check_hostname", options.get("ssl_cert_reqs") != "none")
    return options


@contextmanager
def _redis_url(url: str, finder: PrimaryFinder | None) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, redis_errors.RedisError) as error:
        shown = masked_url(url) if finder is None else str(finder)
        raise PoolUnavailable(
            f"{shown!r} is not a Redis URL: use redis://HOST:PORT, rediss://HOST:PORT, unix:///PATH or "
            "redis+sentinel://HOST:PORT/SERVICE, with options that redis-py knows."
        ) from error


class Connections(ConnectionPool):
    """A connection pool with a connection for each command in flight; `semaphore` limits their number.

    It skips redis-py's check whether a connection is still alive: a command on a dead connection fails and is retried.
    It retries connecting as a whole, since redis-py does not retry the handshake.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.semaphore = PrioritySemaphore(self.max_connections)

    async def exchange(self, connection: AbstractConnection, *parts: bytes | str | int) -> Reply:
        """Send a command and return its raw reply, at half the cost of redis-py's `execute_command`.

        If the connection has died since its last command, the first try is not counted as one of the retries.

        Args:
            connection: a connection from `get`.
        """
        if connection.is_connected:
            try:
                if has_moved(connection):
                    raise Demoted
                return await _ask(connection, parts)
            except CONNECTION_ERRORS as error:
                await connection.disconnect()
                if isinstance(error, Demoted):
                    await self.disconnect(inuse_connections=False)
        return cast("Reply", await _retried(connection, partial(_ask, connection, parts)))

    async def get_connection(self, *_: object, **__: object) -> AbstractConnection:
        await self.semaphore.acquire()
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
        self.semaphore.release()

    def get(self) -> AbstractConnection:
        """Take a free connection. The caller must hold the semaphore, and call `put` before releasing it."""
        return cast("AbstractConnection", self.get_available_connection())  # type: ignore[no-untyped-call]  # in redis-py 5

    def put(self, connection: AbstractConnection) -> None:
        """Give a connection back, for the next command."""
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)


async def _ask(connection: AbstractConnection, parts: tuple[bytes | str | int, ...]) -> Reply:
    packed = connection.pack_command(*parts) if _pack is None else _pack(parts)
    await connection.send_packed_command(packed)
    return cast("Reply", await connection.read_response())


async def _retried(connection: AbstractConnection, do: Callable[[], Awaitable[T]]) -> T:
    return cast("T", await connection.retry.call_with_retry(do, lambda _: connection.disconnect()))


class _Retry(Retry):
    """redis-py's `Retry`, except that a command is not retried after the server has replied with an error."""

    async def call_with_retry(self, do: Callable[[], Awaitable[T]], *args: Any, **options: Any) -> Any:
        async def attempt() -> T | redis_errors.ConnectionError:
            try:
                return await do()
            except (redis_errors.AuthenticationError, redis_errors.AuthorizationError) as error:
                return error
            except redis_errors.ConnectionError as error:
                if not isinstance(
                    error.__cause__, redis_errors.RedisError
                ):  # how redis-py wraps errors on a unix socket
                    raise
                return error

        outcome = await super().call_with_retry(attempt, *args, **options)
        if isinstance(outcome, redis_errors.ConnectionError):
            raise outcome
        return outcome
