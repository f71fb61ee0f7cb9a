"""Redis connections that behave the same with redis-py 5 and with the newest redis-py.

ARQ requires redis-py 5, so workers have that version; an agent's base install has the newest version. `make test-redis`
tests both. Only this module uses private names of redis-py. It evens out these differences:

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
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast
from urllib.parse import unquote

from redis import exceptions as redis_errors
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from tokenlane.config.settings.values import masked_url
from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.store.replies.values import Reply

from .command_limits import PrioritySemaphore
from .refusals import refusal_code
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

CONNECTION_ERRORS = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError)
"""The errors that redis-py raises if a connection cannot be opened, is lost, or times out."""

MAX_CONNECTIONS = 32
_ARQ_RETRIES = 10
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


class PrimaryFinder(Protocol):
    """Finds the primary of a service. As text, it is a URL without secrets. `address`: where it was last found."""

    address: tuple[str, int] | None

    async def find_primary(self) -> tuple[str, int]: ...


class Demoted(redis_errors.ConnectionError):
    """The server has become a replica, so its connection was closed. The next one goes to the new primary."""


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
        options: dict[str, Any] = {"socket_connect_timeout": timings.connect_s, **parse_url(url), **_OURS}
        options.pop("timeout", None)  # an option of redis-py's BlockingConnectionPool
        options["connection_class"] = _hardened(options.get("connection_class"), finds_primary=finder is not None)
        options["retry"] = _Retry(ExponentialBackoff(cap=0.5, base=0.02), retries)
        if finder is not None:
            options |= {"finder": finder, "redis_connect_func": _greet_primary}
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
    return replace(
        parsed,
        username=parsed.username and unquote(parsed.username),
        password=parsed.password and unquote(parsed.password),
        unix_socket_path=parsed.unix_socket_path and unquote(parsed.unix_socket_path),
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.02), _ARQ_RETRIES),
        retry_on_error=list(CONNECTION_ERRORS),
    )


@contextmanager
def _redis_url(url: str, finder: PrimaryFinder | None) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, redis_errors.RedisError) as error:
        shown = masked_url(url) if finder is None else str(finder)
        raise PoolUnavailable(
            f"{shown!r} is not a Redis URL: use redis://HOST:PORT, rediss://HOST:PORT, unix:///PATH or "
            "redis+sentinel://HOST:PORT/SERVICE, with options that redis-py knows"
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


class NoReply(TimeoutError):
    """The server accepted the connection, and did not reply within `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no reply within {seconds:g} s")
        self.seconds = seconds


def accepted(connection: AbstractConnection) -> bool:
    """Whether the server accepted the connection when it was last opened."""
    return isinstance(connection, _HardenedConnection) and connection.accepted


class _HardenedConnection:
    """A mixin for connection classes. It treats any error from the transport as a lost connection, and reads TLS files
    with a size limit.

    `accepted`: whether the server accepted the connection when it was last opened.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**with_files_read(options))
        self.accepted = False

    async def _connect(self) -> None:
        self.accepted = False
        await super()._connect()  # type: ignore[misc]  # of the other base
        self.accepted = True

    async def on_connect(self) -> None:  # for a Unix socket, `_connect` calls it
        self.accepted = True
        await super().on_connect()  # type: ignore[misc]  # of the other base

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
        # redis-py forgets its streams before it closes them, so an error while closing does no harm.
        with suppress(Exception):
            await super().disconnect(*args, **options)  # type: ignore[misc]  # of the other base

    async def _end(self, error: Exception) -> None:
        if not isinstance(error, redis_errors.RedisError | OSError):
            await self.disconnect(nowait=True)
            raise redis_errors.ConnectionError(f"the transport failed: {type(error).__name__}") from error


class _PrimaryConnection:
    """A mixin for connection classes. It finds the primary each time it connects, and does not stay with a server that
    has become a replica."""

    def __init__(self, *, finder: PrimaryFinder, **options: Any) -> None:
        super().__init__(**options)
        self.finder = finder

    async def _connect(self) -> None:
        self.host, self.port = await self.finder.find_primary()
        await super()._connect()  # type: ignore[misc]  # of the other base

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)  # type: ignore[misc]  # of the other base
        except redis_errors.ResponseError as error:
            code = refusal_code(error)
            if code in ("READONLY", "NOREPLICAS"):  # without replicas, it may have been replaced and not know it yet
                await self.disconnect()  # type: ignore[attr-defined]  # of the other base
            if code == "READONLY":
                raise Demoted from None
            raise


def has_moved(connection: AbstractConnection) -> bool:
    """Whether the primary has been found at another address since the connection was opened."""
    if not isinstance(connection, _PrimaryConnection):
        return False
    return connection.finder.address != (connection.host, connection.port)


async def _greet_primary(connection: AbstractConnection) -> None:
    """Do what redis-py does with a new connection. Then check that the server is a primary: the Sentinels may not know
    yet that an old primary has come back as a replica."""
    await connection.on_connect()
    await connection.send_command("ROLE")
    try:
        role = await connection.read_response()
    except redis_errors.ResponseError:
        return  # an ACL forbids ROLE; the first write will tell
    if isinstance(role, list) and role[:1] != [b"master"]:
        raise Demoted


@cache
def _hardened(kind: type[AbstractConnection] | None, *, finds_primary: bool) -> type[AbstractConnection]:
    """A subclass of `kind` with the mixins above.

    Args:
        kind: by default, the class for plain TCP.
    """
    base = kind or Connection
    mixins = (_PrimaryConnection, _HardenedConnection) if finds_primary else (_HardenedConnection,)
    return type(base.__name__, (*mixins, base), {})
