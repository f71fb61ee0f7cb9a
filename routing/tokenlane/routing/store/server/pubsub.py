"""A pub/sub connection with time-outs and without retries. The only error that it raises is `PubSubLost`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.store.replies.values import Reply

from .command_limits import StepwiseTimeout
from .connection_classes import Demoted, NoReply, accepted, has_moved
from .redis_py import pubsub_connection
from .refusals import find_refusal

if TYPE_CHECKING:
    from .server import Server


class PubSubLost(Exception):
    """The pub/sub connection was lost, or could not be opened.

    `why`: the error that says why. `refused`: whether the server refused the connection or a command.
    """

    def __init__(self, why: LlmError, *, refused: bool) -> None:
        super().__init__(why.code)
        self.why = why
        self.refused = refused


class PubSub:
    """A pub/sub connection. Get one from `Server.pubsub`. All methods raise `PubSubLost`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: AbstractConnection | None = None

    async def open(self, channel: str) -> None:
        """Connect, and subscribe to this channel."""
        timings = self._server.timings
        try:
            async with StepwiseTimeout(timings.pubsub_connect_s):
                self._connection = pubsub_connection(self._server.connection_url, timings, self._server.sentinels)
                await self._connection.connect()  # type: ignore[no-untyped-call]  # in redis-py 5
                await self._connection.send_command("SUBSCRIBE", channel)
                await self._connection.read_response()
        except (redis_errors.RedisError, OSError) as error:
            if isinstance(error, TimeoutError) and self._connection is not None and accepted(self._connection):
                error = NoReply(timings.pubsub_connect_s)
            raise self.lost(error) from error

    async def send(self, *command: str) -> None:
        """Send a command. Its reply comes from `read`, among the messages."""
        assert self._connection is not None
        if has_moved(self._connection):
            raise self.lost(Demoted())
        try:
            # Sending blocks while the server does not read.
            async with StepwiseTimeout(self._server.timings.pubsub_connect_s):
                await self._connection.send_command(*command)
        except (redis_errors.RedisError, OSError) as error:
            raise self.lost(error) from error

    async def read(self) -> Reply:
        """Wait for the server's next message or reply. Cancellation: no message is lost."""
        assert self._connection is not None
        try:
            return cast("Reply", await self._connection.read_response(disconnect_on_error=False))
        except (redis_errors.RedisError, OSError) as error:
            raise self.lost(error) from error

    def lost(self, error: redis_errors.RedisError | OSError) -> PubSubLost:
        """The `PubSubLost` for an error from redis-py."""
        refused = isinstance(error, redis_errors.ResponseError) or find_refusal(error) is not None
        return PubSubLost(self._server.translate_error(error, "SUBSCRIBE"), refused=refused)

    async def close(self) -> None:
        """Close the connection, if it was opened."""
        if self._connection is not None:
            await self._connection.disconnect()
