"""Asking a Redis server: commands that end in time, each in its turn, and errors of ours."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast

from redis import exceptions as redis_errors
from redis.asyncio import Redis

from tokenlane.routing.store.replies.values import Reply

from .command_turns import Urgency, patience
from .redis_py import LOST, Connections

if TYPE_CHECKING:
    from .server import Server


class Script(NamedTuple):
    """A script in Lua. `sha`: by which the server knows it."""

    text: str
    sha: str

    @classmethod
    def of(cls, text: str) -> Script:
        return cls(text, hashlib.sha1(text.encode()).hexdigest())


class Commands:
    """Connections to a server for commands. Get one with `Server.commands`.

    All methods raise `PoolUnavailable` when the server does not answer or refuses, and `QueueFull` when it has no
    memory left.

    `connections`: for a client of redis-py's kind; each of its commands waits for its turn too.
    """

    def __init__(self, server: Server, connections: Connections) -> None:
        self.server = server
        self.connections = connections

    async def ask(self, *parts: bytes | str | int, urgency: Urgency = Urgency.USUAL) -> Reply:
        """Send one command when its turn has come; it has an end from then on.

        Args:
            urgency: who else that waits for a turn goes before it.
        """
        turns = self.connections.turns
        if not turns.take_now():
            await turns.take(urgency)
        bound = patience(self.server.timings.command_s)
        try:
            async with bound:
                return await self.connections.exchange(*parts)
        except redis_errors.NoScriptError:
            raise
        except (redis_errors.RedisError, OSError) as error:
            ours = self.server.as_ours(error)
            if isinstance(error, LOST):
                turns.give_up(bound.since, partial(self.server.as_ours, error))
            raise ours from error
        finally:
            turns.give_back()

    async def run(self, script: Script, key: str, *args: bytes | str | int, urgency: Urgency = Urgency.USUAL) -> Reply:
        """Run a script with this key; the server is sent its text if it does not have it."""
        try:
            return await self.ask("EVALSHA", script.sha, 1, key, *args, urgency=urgency)
        except redis_errors.NoScriptError:
            return await self.ask("EVAL", script.text, 1, key, *args, urgency=urgency)

    async def ask_about(self, *command: str) -> object | None:
        """What the server says to a command that touches no keys, as redis-py reads it: INFO as a mapping. None if it
        lets this user not ask."""
        try:
            async with patience(self.server.timings.command_s):
                redis = Redis(connection_pool=self.connections)
                return await cast("Awaitable[object]", redis.execute_command(*command))  # type: ignore[no-untyped-call]  # in redis-py 5
        except redis_errors.ResponseError:
            return None
        except (redis_errors.RedisError, OSError) as error:
            raise self.server.as_ours(error) from error

    async def aclose(self) -> None:
        """Close all connections."""
        await self.connections.disconnect()
