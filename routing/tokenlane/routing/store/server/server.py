"""A Redis server: opens connections for commands and pub/sub by its URL, and makes the settings of ARQ's client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis import exceptions as redis_errors

from tokenlane.config.host.sentinel_urls import SentinelUrl, is_sentinel_url
from tokenlane.config.settings.values import masked_url
from tokenlane.routing.contract.errors import LlmError, PoolUnavailable

from .commands import Commands
from .errors import translate_error
from .pubsub import PubSub
from .redis_py import MAX_CONNECTIONS, arq_client, arq_settings, connections, database_of
from .sentinel_errors import translate_sentinel_error
from .sentinels import Sentinels
from .timings import Timings

if TYPE_CHECKING:  # agents have no ARQ
    from arq.connections import ArqRedis
    from arq.connections import RedisSettings as ArqRedisSettings

DEFAULT_TIMINGS = Timings()


@dataclass(frozen=True, repr=False)
class Server:
    """One Redis server, or the primary among the servers that Sentinels watch. Get it from `Server.of`.

    Attributes:
        url: contains the password; `str(server)` does not.
        max_in_flight: how many commands may be in flight at once.
        sentinels: the Sentinels of the URL; None if the URL names the server itself.
    """

    url: str
    database: int
    timings: Timings
    max_in_flight: int = MAX_CONNECTIONS
    sentinels: Sentinels | None = None

    @classmethod
    def of(cls, url: str, timings: Timings | None = None) -> Server:
        """The server at a URL: `redis://`, `rediss://`, `unix://`, or with Sentinels `redis+sentinel://` and
        `rediss+sentinel://`.

        Raises:
            PoolUnavailable: the URL is not a Redis URL.
        """
        timings = timings or DEFAULT_TIMINGS
        if not is_sentinel_url(url):
            return cls(url, database_of(url), timings)
        try:
            parsed = SentinelUrl.parse(url)
        except ValueError as error:
            raise PoolUnavailable(f"{masked_url(url)!r} {error}.") from error
        sentinels = Sentinels(parsed, masked_url(url), timings)
        return cls(url, database_of(sentinels.connection_url, sentinels), timings, sentinels=sentinels)

    def __repr__(self) -> str:
        return f"<Server {self}>"

    def __str__(self) -> str:
        return masked_url(self.url)

    @property
    def connection_url(self) -> str:
        """The URL for redis-py. A secret."""
        return self.url if self.sentinels is None else self.sentinels.connection_url

    async def greet(self) -> None:
        """Check that a Redis server answers. This does not retry, so a wrong URL is reported at once.

        Raises:
            PoolUnavailable: no Redis server answers, or the server refuses the connection.
        """
        async with self.commands(retries=0) as commands:
            await commands.ask("PING")

    @asynccontextmanager
    async def commands(self, *, retries: int = 5) -> AsyncIterator[Commands]:
        """Make a connection pool for commands, until the block ends. A command is retried with growing pauses for a few
        seconds, so it succeeds across a restart of the server.

        Raises:
            PoolUnavailable: the URL has an unknown option, or names a file that cannot be read.
        """
        try:
            opened = connections(self.connection_url, retries, self.timings, self.max_in_flight, self.sentinels)
        except OSError as error:
            raise self.translate_error(error) from error
        try:
            yield Commands(self, opened)
        finally:
            await opened.disconnect()

    def pubsub(self) -> PubSub:
        """A pub/sub connection, not opened yet."""
        return PubSub(self)

    def arq(self) -> ArqRedisSettings:
        """The settings for ARQ's Redis client. With Sentinels they have the primary's address, so first connect."""
        if self.sentinels is None:
            return arq_settings(self.url)
        assert self.sentinels.address is not None
        return arq_settings(self.sentinels.url.server_url(*self.sentinels.address))

    def arq_client(self) -> ArqRedis:
        """ARQ's Redis client, which follows the primary that Sentinels name. ARQ closes it."""
        return arq_client(connections(self.connection_url, 5, self.timings, finder=self.sentinels))

    def translate_error(self, error: redis_errors.RedisError | OSError, action: str = "") -> LlmError:
        """Translate an error from redis-py into one of tokenlane's errors.

        Args:
            action: the command or script that failed, for messages; '' if it is unknown.
        """
        if self.sentinels is not None:
            return translate_sentinel_error(error, self.sentinels, action)
        return translate_error(error, self.url, action=action)

    def error_from_reply(self, text: str, action: str) -> LlmError:
        """Translate the text of an error reply from the server into one of tokenlane's errors."""
        return self.translate_error(redis_errors.ResponseError(text), action)
