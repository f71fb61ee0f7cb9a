"""Sends commands to a Redis server, within limits of number and time, and translates redis-py's errors."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, cast

from redis import exceptions as redis_errors
from redis.asyncio import Redis

from tokenlane.routing.store.replies.values import Reply

from .command_limits import StepwiseTimeout, Urgency
from .connection_classes import NoReply, accepted
from .redis_py import CONNECTION_ERRORS, Connections

if TYPE_CHECKING:
    from .server import Server


class Script:
    """A Lua script, and its SHA-1 digest, by which the server knows it."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.sha = hashlib.sha1(text.encode()).hexdigest()


class Commands:
    """Sends commands to one server. Get it from `Server.commands`.

    All methods raise `PoolUnavailable` if the server does not answer or refuses the command, and `QueueFull` if the
    server is out of memory.

    `connections`: the connection pool. Commands that redis-py's own client sends through it count towards the limit.
    """

    def __init__(self, server: Server, connections: Connections) -> None:
        self.server = server
        self.connections = connections

    async def ask(self, *parts: bytes | str | int, urgency: Urgency = Urgency.USUAL, action: str = "") -> Reply:
        """Send a command and return its reply. If too many commands are in flight, wait first. The time-out starts when
        the command is sent.

        Args:
            action: what the command does, for the message of an error; by default the command's name.
        """
        semaphore = self.connections.semaphore
        if not semaphore.try_acquire():
            await semaphore.acquire(urgency)
        connection = self.connections.get()
        bound = StepwiseTimeout(self.server.timings.command_s)
        try:
            async with bound:
                return await self.connections.exchange(connection, *parts)
        except redis_errors.NoScriptError:
            raise
        except (redis_errors.RedisError, OSError) as error:
            if isinstance(error, TimeoutError) and accepted(connection):
                error = NoReply(self.server.timings.command_s)
            ours = self.server.translate_error(error, action or str(parts[0]))
            if isinstance(error, CONNECTION_ERRORS):
                semaphore.fail_waiters(bound.since, partial(self.server.translate_error, error))
            raise ours from error
        finally:
            self.connections.put(connection)
            semaphore.release()

    async def run(self, script: Script, key: str, *args: bytes | str | int, urgency: Urgency = Urgency.USUAL) -> Reply:
        """Run a script with one key. Its text is sent only if the server does not have the script yet."""
        action = f"the script {script.name}"
        try:
            return await self.ask("EVALSHA", script.sha, 1, key, *args, urgency=urgency, action=action)
        except redis_errors.NoScriptError:
            return await self.ask("EVAL", script.text, 1, key, *args, urgency=urgency, action=action)

    async def ask_about(self, *command: str) -> object | None:
        """Send a command about the server, such as INFO, and return the reply as redis-py parses it; None if the server
        refuses the command."""
        try:
            async with StepwiseTimeout(self.server.timings.command_s):
                redis = Redis(connection_pool=self.connections)
                return await cast("Awaitable[object]", redis.execute_command(*command))  # type: ignore[no-untyped-call]  # in redis-py 5
        except redis_errors.ResponseError:
            return None
        except (redis_errors.RedisError, OSError) as error:
            raise self.server.translate_error(error) from error
