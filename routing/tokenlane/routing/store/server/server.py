"""Where Redis is, and every way to reach it: commands, pub/sub, ARQ's own client, the primary of a pool."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis import exceptions as redis_errors

from tokenlane.config.settings.values import masked
from tokenlane.routing.contract.errors import LlmError

from .commands import Commands
from .errors import as_ours
from .pubsub import PubSub
from .redis_py import MOST_CONNECTIONS, arq_settings, connections, database_of
from .timings import Timings

if TYPE_CHECKING:  # agents have no ARQ
    from arq.connections import RedisSettings as ArqRedisSettings

USUAL = Timings()


@dataclass(frozen=True, repr=False)
class Server:
    """One Redis server. Get it with `of`.

    `url` holds the password, so it appears in no text; `str(server)` is without. `database`: its number. `most`: how
    many commands it is sent at once.
    """

    url: str
    database: int
    timings: Timings
    most: int = MOST_CONNECTIONS

    @classmethod
    def of(cls, url: str, timings: Timings | None = None) -> Server:
        """The server at a URL: `redis://`, `rediss://` or `unix://`.

        Raises:
            PoolUnavailable: the URL is none of a Redis server.
        """
        return cls(url, database_of(url), timings or USUAL)

    def __repr__(self) -> str:
        return f"<Server {self}>"

    def __str__(self) -> str:
        return masked(self.url)

    async def primary_of(self, pool: str) -> Server:
        """The server that takes the writes of the pool of this name: this one."""
        return self

    async def greet(self) -> None:
        """Find out at once whether a Redis server answers.

        Raises:
            PoolUnavailable: none does, or it wants a password.
        """
        # Not through the patient client: a wrong URL should be reported at once.
        async with self.commands(retries=0) as impatient:
            await impatient.ask("PING")

    @asynccontextmanager
    async def commands(self, *, retries: int = 5) -> AsyncIterator[Commands]:
        """A client that rides over a server's restart: `retries` tries with growing pauses, for 5 a few seconds in all.

        Raises:
            PoolUnavailable: an option or a file that the URL names is none.
        """
        try:
            opened = connections(self.url, retries, self.timings, self.most)
        except OSError as error:
            raise self.as_ours(error) from error
        commands = Commands(self, opened)
        try:
            yield commands
        finally:
            await commands.aclose()

    def pubsub(self) -> PubSub:
        """A connection for pub/sub, yet to be opened."""
        return PubSub(self)

    def arq(self) -> ArqRedisSettings:
        """Where ARQ's own client finds the server."""
        return arq_settings(self.url)

    def as_ours(self, error: redis_errors.RedisError | OSError) -> LlmError:
        """What an error of redis-py means."""
        return as_ours(error, self.url)

    def refusal(self, text: str) -> LlmError:
        """What an error that the server has answered with means."""
        return self.as_ours(redis_errors.ResponseError(text))
