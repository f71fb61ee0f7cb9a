"""Sends commands to a Redis server, each in its turn and with a time-out; redis-py's errors become tokenlane's."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, cast

from redis import exceptions as redis_errors
from redis.asyncio import Redis

from tokenlane.routing.store.replies.values import Reply

from .command_turns import Urgency, patience
from .redis_py import LOST, Connections

if TYPE_CHECKING:
    from .server import Server


class Script:
    """A script in Lua, and the digest by which the server knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode()).hexdigest()


class Commands:
    """Connections to a server for commands. Get one with `Server.commands`.

    All methods raise `PoolUnavailable` when the server does not answer or refuses, and `QueueFull` when it has no
    memory left.

    `connections`: a connection pool for redis-py's client, whose commands wait for their turns too.
    """

    def __init__(self, server: Server, connections: Connections) -> None:
        self.server = server
        self.connections = connections

    async def ask(self, *parts: bytes | str | int, urgency: Urgency = Urgency.USUAL) -> Reply:
        """Send one command when its turn has come; its time-out runs from then on."""
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
        """Run a script with this key; its text is sent only to a server that does not have it."""
        try:
            return await self.ask("EVALSHA", script.sha, 1, key, *args, urgency=urgency)
        except redis_errors.NoScriptError:
            return await self.ask("EVAL", script.text, 1, key, *args, urgency=urgency)

    async def ask_about(self, *command: str) -> object | None:
        """The reply to a command without keys, as redis-py parses it: INFO as a mapping. None if the server refuses."""
        try:
            async with patience(self.server.timings.command_s):
                redis = Redis(connection_pool=self.connections)
                return await cast("Awaitable[object]", redis.execute_command(*command))  # type: ignore[no-untyped-call]  # in redis-py 5
        except redis_errors.ResponseError:
            return None
        except (redis_errors.RedisError, OSError) as error:
            raise self.server.as_ours(error) from error
