"""Sends commands to a Redis server, in turn and with a time-out, and translates redis-py's errors."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, cast

from redis import exceptions as redis_errors
from redis.asyncio import Redis

from tokenlane.routing.store.replies.values import Reply

from .command_limits import StepwiseTimeout, Urgency
from .redis_py import CONNECTION_ERRORS, Connections

if TYPE_CHECKING:
    from .server import Server


class Script:
    """A Lua script, and its digest, which is its name on the server."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode()).hexdigest()


class Commands:
    """Sends commands to one server. Get it from `Server.commands`.

    All methods raise `PoolUnavailable` if the server does not answer or refuses, and `QueueFull` if it has no memory
    left.

    `connections`: the connection pool. If redis-py's client uses it, its commands wait for their turns, too.
    """

    def __init__(self, server: Server, connections: Connections) -> None:
        self.server = server
        self.connections = connections

    async def ask(self, *parts: bytes | str | int, urgency: Urgency = Urgency.USUAL) -> Reply:
        """Wait for a turn, send one command, and return its reply. The time-out starts when the command is sent."""
        turns = self.connections.turns
        if not turns.try_acquire():
            await turns.acquire(urgency)
        bound = StepwiseTimeout(self.server.timings.command_s)
        try:
            async with bound:
                return await self.connections.exchange(*parts)
        except redis_errors.NoScriptError:
            raise
        except (redis_errors.RedisError, OSError) as error:
            ours = self.server.translate_error(error)
            if isinstance(error, CONNECTION_ERRORS):
                turns.fail_waiters(bound.since, partial(self.server.translate_error, error))
            raise ours from error
        finally:
            turns.release()

    async def run(self, script: Script, key: str, *args: bytes | str | int, urgency: Urgency = Urgency.USUAL) -> Reply:
        """Run a script with this key. The script's text is sent only if the server does not have it yet."""
        try:
            return await self.ask("EVALSHA", script.sha, 1, key, *args, urgency=urgency)
        except redis_errors.NoScriptError:
            return await self.ask("EVAL", script.text, 1, key, *args, urgency=urgency)

    async def ask_about(self, *command: str) -> object | None:
        """Send a command about the server, such as INFO, and return the reply as redis-py parses it. None if the server
        refuses the command."""
        try:
            async with StepwiseTimeout(self.server.timings.command_s):
                redis = Redis(connection_pool=self.connections)
                return await cast("Awaitable[object]", redis.execute_command(*command))  # type: ignore[no-untyped-call]  # in redis-py 5
        except redis_errors.ResponseError:
            return None
        except (redis_errors.RedisError, OSError) as error:
            raise self.server.translate_error(error) from error
