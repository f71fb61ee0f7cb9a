"""Connection classes: those of redis-py, with mixins that handle a failed transport and find a primary by Sentinels."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import Any, Protocol

from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection, Connection

from .refusals import refusal_code
from .tls import with_files_read


class PrimaryFinder(Protocol):
    """Finds the primary of a service. As text, it is a URL without secrets. `address`: where it was last found."""

    address: tuple[str, int] | None

    async def find_primary(self) -> tuple[str, int]: ...


class Demoted(redis_errors.ConnectionError):
    """The server has become a replica, so its connection was closed. The next one goes to the new primary."""


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


async def greet_primary(connection: AbstractConnection) -> None:
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
def connection_class(kind: type[AbstractConnection] | None, *, finds_primary: bool) -> type[AbstractConnection]:
    """A subclass of `kind` with the mixins above.

    Args:
        kind: by default, the class for plain TCP.
    """
    base = kind or Connection
    mixins = (_PrimaryConnection, _HardenedConnection) if finds_primary else (_HardenedConnection,)
    return type(base.__name__, (*mixins, base), {})
