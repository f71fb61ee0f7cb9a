"""The hub: one pub/sub connection that fans out to many handlers, and says when it may have missed something.

Pub/sub forgets. After a lost connection the hub subscribes again and tells every handler by calling its `on_gap`: what
was published in between is gone, and whoever needs it must ask for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from redis import exceptions as redis_errors
from redis.asyncio.client import PubSub
from redis.asyncio.connection import Connection

from .connection import open_redis
from .pool import Pool
from .tasks import InternalErrors, background, keep_going

__all__ = ["Hub", "Listener", "open_hub"]

logger = logging.getLogger(__name__)

_SILENCE_S = 2.0
_DEAD_AFTER_SILENCES = 3
_CONNECT_TIMEOUT_S = 5.0
_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.5)
_UNSUBSCRIBE_AFTER_S = 0.05
_BROKEN = (redis_errors.RedisError, OSError)


class Listener(NamedTuple):
    """Who hears a channel: `handler` is given its messages, `on_gap` is told when some may have been lost."""

    handler: Callable[[bytes], None]
    on_gap: Callable[[], None]


@dataclass(eq=False)
class _Subscription:
    listener: Listener
    confirmed: asyncio.Event = field(default_factory=asyncio.Event)


class Hub:
    """Many subscriptions over one connection. Get one with `open_hub`.

    Handlers run inside the reading task, in the order of the messages, and must not block. All subscribing goes
    through that task too: redis-py's PubSub has no lock of its own.
    """

    def __init__(self, url: str, errors: InternalErrors) -> None:
        self._url = url
        self._errors = errors
        self._subscriptions: dict[str, _Subscription] = {}
        self._wanted: dict[str, None] = {}
        self._unwanted: dict[str, None] = {}
        self._pending = False
        self._wake: asyncio.Timeout | None = None
        self.connected = asyncio.Event()

    async def subscribe(
        self, channel: str, handler: Callable[[bytes], None], on_gap: Callable[[], None] = lambda: None
    ) -> None:
        """Hand every message of the channel to `handler`; returns when the server has confirmed it, or when it was
        taken back meanwhile.

        Guarantee: every message published after the return is handed over, or `on_gap` is called.
        Cancellation: the subscription is taken back.

        Raises:
            ValueError: the channel has a handler already.
        """
        await self.subscribe_all({channel: Listener(handler, on_gap)})

    async def subscribe_all(self, listeners: Mapping[str, Listener]) -> None:
        """Subscribe to many channels at once; see `subscribe`."""
        taken = self._subscriptions.keys() & listeners.keys()
        if taken:
            raise ValueError(f"channels have a handler already: {sorted(taken)}")
        fresh = {channel: _Subscription(listener) for channel, listener in listeners.items()}
        self._subscriptions |= fresh
        self._wanted |= dict.fromkeys(fresh)
        self._apply()
        try:
            for subscription in fresh.values():
                await subscription.confirmed.wait()
        except asyncio.CancelledError:
            for channel, subscription in fresh.items():
                if self._subscriptions.get(channel) is subscription:
                    self.unsubscribe(channel)
            raise

    def unsubscribe(self, channel: str) -> None:
        """Stop handing over the channel's messages, at once; the server is told soon, of several at a time."""
        subscription = self._subscriptions.pop(channel, None)
        if subscription is None:
            return
        subscription.confirmed.set()
        self._wanted.pop(channel, None)
        if not self._unwanted:
            asyncio.get_running_loop().call_later(_UNSUBSCRIBE_AFTER_S, self._apply)
        self._unwanted[channel] = None

    def _apply(self) -> None:
        """Have the reading task tell the server what is wanted, and what no longer is."""
        self._pending = bool(self._wanted or self._unwanted)
        if self._pending and self._wake is not None:
            if not self._wake.expired():  # one that just ends wakes the task by itself, and cannot be rescheduled
                self._wake.reschedule(asyncio.get_running_loop().time())
            self._wake = None

    async def _run(self) -> None:
        failures = 0
        while True:
            async with open_redis(self._url, retries=0) as redis:
                pubsub = redis.pubsub()
                try:
                    async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                        await self._subscribe_all(pubsub)
                    failures = 0
                    self.connected.set()
                    await self._read(pubsub)
                except _BROKEN as error:
                    self.connected.clear()
                    if failures == 0:
                        logger.warning("pub/sub connection lost (%s), connecting again", type(error).__name__)
                finally:
                    with suppress(*_BROKEN, TimeoutError):
                        async with asyncio.timeout(1):
                            await pubsub.aclose()  # type: ignore[no-untyped-call]  # in redis-py 5
            await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
            failures += 1

    async def _subscribe_all(self, pubsub: PubSub) -> None:
        # A PubSub object has no connection before its first command; this channel belongs to nobody else.
        self._wanted.clear()
        self._unwanted.clear()
        self._pending = False
        await pubsub.execute_command("SUBSCRIBE", f"tokenlane:hub:{id(self)}", *self._subscriptions)

    async def _read(self, pubsub: PubSub) -> None:
        silences = 0
        while True:
            heard = False
            try:
                async with asyncio.timeout(_SILENCE_S) as self._wake:
                    while not self._pending:
                        await self._deliver_next(pubsub)
                        heard = True
            except TimeoutError:
                pass
            finally:
                self._wake = None  # a timeout that was left cannot be rescheduled
            if self._pending:
                await self._apply_pending(pubsub)
            elif heard:
                silences = 0
            elif silences < _DEAD_AFTER_SILENCES:
                silences += 1
                await pubsub.execute_command("PING")
            else:
                raise redis_errors.ConnectionError("no answer to PING")

    async def _deliver_next(self, pubsub: PubSub) -> None:
        # PubSub.get_message does the same with a timer for each message.
        connection = cast("Connection", pubsub.connection)
        kind, channel, *data = await connection.read_response(disconnect_on_error=False, push_request=True)
        self._deliver(kind, channel, *data)

    async def _apply_pending(self, pubsub: PubSub) -> None:
        wanted, self._wanted = self._wanted, {}
        unwanted, self._unwanted = self._unwanted, {}
        self._pending = False
        # Some that was not wanted may be wanted again.
        unwanted = {channel: None for channel in unwanted if channel not in self._subscriptions}
        if wanted:
            await pubsub.execute_command("SUBSCRIBE", *wanted)
        if unwanted:
            await pubsub.execute_command("UNSUBSCRIBE", *unwanted)

    def _deliver(self, kind: bytes, channel: bytes, data: bytes | int = b"") -> None:
        subscription = self._subscriptions.get(channel.decode())
        if subscription is None:
            return
        if kind == b"message" and isinstance(data, bytes):
            self._call(subscription.listener.handler, data)
        elif kind == b"subscribe":
            if subscription.confirmed.is_set():
                self._call(subscription.listener.on_gap)
            subscription.confirmed.set()

    def _call(self, function: Callable[..., None], *args: bytes) -> None:
        try:
            function(*args)
        except Exception as error:  # one bad message must not silence all other streams
            self._errors.note("handler of a message", error)


@asynccontextmanager
async def open_hub(pool: Pool) -> AsyncIterator[Hub]:
    """Open a hub to the pool's server; its reading task lives as long as the block."""
    hub = Hub(pool.url, pool.internal_errors)
    async with background() as tasks:
        tasks.create_task(keep_going("hub", hub._run, pool.internal_errors), name="tokenlane hub")
        yield hub
