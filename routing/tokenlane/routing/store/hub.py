"""The hub: one pub/sub connection, shared by many subscribers.

Pub/sub does not store messages. When the hub has lost its connection, it subscribes to all channels again and calls
`on_gap` for each, so that the subscriber can ask for the messages that it may have missed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice

from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.support.tasks import background, restart_on_error

from .pool import Pool
from .replies.values import Reply
from .server import PubSub, PubSubLost

logger = logging.getLogger(__name__)

_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.5)
_REFUSED_PAUSES_S = (0.2, 1.0, 5.0)
_UNSUBSCRIBE_AFTER_S = 0.05
_MOST_AT_ONCE = 500
"""How many subscriptions may be sent and not yet confirmed by the server at once."""


@dataclass(eq=False)
class _Subscription:
    """A subscription to one channel.

    `asked_at`: when it was requested, on the event loop's clock. `refused`: the error if the subscription failed; then
    `confirmed` is set, too.
    """

    handler: Callable[[bytes], None]
    on_gap: Callable[[], None]
    asked_at: float
    confirmed: asyncio.Event = field(default_factory=asyncio.Event)
    refused: LlmError | None = None


class Hub:
    """Many subscriptions over one connection. Get a hub from `open_hub`.

    One task reads the connection and calls the handlers, in the order of the messages; handlers must not block. The
    same task sends all commands, since redis-py's connections have no lock.

    `connected`: set while the connection is open.
    """

    def __init__(self, pool: Pool, gives_up_after_s: float | None = None) -> None:
        self._server = pool.server
        self._errors = pool.internal_errors
        self._hub_channel = pool.keys.hub(secrets.token_hex(8))
        self._gives_up_after_s = gives_up_after_s
        self._subscriptions: dict[str, _Subscription] = {}
        self._wanted: dict[str, None] = {}
        self._unwanted: dict[str, None] = {}
        self._unconfirmed = 0
        self._pending = False
        self._wake: asyncio.Timeout | None = None
        self._heard = False
        self.connected = asyncio.Event()

    async def subscribe(
        self, channel: str, handler: Callable[[bytes], None], on_gap: Callable[[], None] = lambda: None
    ) -> None:
        """Call `handler` with every message on a channel from now on, and `on_gap` after messages may have been lost.
        Returns once the server confirms the subscription, or if the channel is unsubscribed in the meantime.

        Guarantee: for every message that is published after the return, `handler` or `on_gap` is called.
        Cancellation: the channel is unsubscribed.

        Raises:
            ValueError: the channel already has a handler.
            PoolUnavailable: the server refuses, and retrying does not help; or the server has not confirmed within
                `gives_up_after_s`.
        """
        if channel in self._subscriptions:
            raise ValueError(f"the channel already has a handler: {channel}")
        subscription = _Subscription(handler, on_gap, asyncio.get_running_loop().time())
        self._subscriptions[channel] = subscription
        self._wanted[channel] = None
        self._wake_reader()
        try:
            await subscription.confirmed.wait()
            if subscription.refused is not None:
                raise subscription.refused
        except (asyncio.CancelledError, LlmError):
            if self._subscriptions.get(channel) is subscription:
                self.unsubscribe(channel)
            raise

    def unsubscribe(self, channel: str) -> None:
        """Stop calling the channel's handler. UNSUBSCRIBE is sent a little later, together for several channels."""
        subscription = self._subscriptions.pop(channel, None)
        if subscription is None:
            return
        subscription.confirmed.set()
        self._wanted.pop(channel, None)
        if not self._unwanted:
            asyncio.get_running_loop().call_later(_UNSUBSCRIBE_AFTER_S, self._wake_reader)
        self._unwanted[channel] = None

    def _wake_reader(self) -> None:
        """Wake the reading task if it has SUBSCRIBE or UNSUBSCRIBE commands to send."""
        self._pending = bool(self._unwanted) or (bool(self._wanted) and self._unconfirmed < _MOST_AT_ONCE)
        if self._pending and self._wake is not None:
            if not self._wake.expired():  # an expired timeout wakes the task anyway, and cannot be rescheduled
                self._wake.reschedule(asyncio.get_running_loop().time())
            self._wake = None

    async def _run(self) -> None:
        failures, pause_s, is_away = 0, 0.0, False
        while True:
            connection, self._heard = self._server.pubsub(), False
            try:
                await self._open(connection)
                if is_away:
                    logger.warning("connected to the Redis server at %s again", self._server)
                is_away = False
                self.connected.set()
                await self._read(connection)
            except PubSubLost as lost:
                failures = 0 if self._heard else failures
                is_away |= failures == 0  # `_pause_after` logs the loss
                pause_s = self._pause_after(lost, failures)
            finally:
                self.connected.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await connection.close()
            await asyncio.sleep(pause_s)
            failures += 1

    def _pause_after(self, lost: PubSubLost, failures: int) -> float:
        """Log the reason once per outage, and return for how many seconds to wait before connecting again."""
        why = lost.why
        if failures == 0 and self.connected.is_set() and not lost.refused:
            logger.warning("lost the connection to the Redis server at %s: reconnecting", self._server)
        elif failures == 0:
            logger.warning("the pub/sub connection failed, trying again: %s", why)
        self._fail_unconfirmed(why, for_good=lost.refused and not why.retryable)
        pauses = (*_REFUSED_PAUSES_S[:2], why.retry_after_s or _REFUSED_PAUSES_S[2]) if lost.refused else _PAUSES_S
        return pauses[min(failures, len(pauses) - 1)]

    def _fail_unconfirmed(self, why: LlmError, *, for_good: bool) -> None:
        """Fail subscriptions that the server has not confirmed: all of them if the server refuses `for_good`, otherwise
        the subscriptions that have waited too long."""
        now, patience_s = asyncio.get_running_loop().time(), self._gives_up_after_s
        for channel, subscription in tuple(self._subscriptions.items()):
            overdue = patience_s is not None and now - subscription.asked_at >= patience_s
            if not subscription.confirmed.is_set() and (for_good or overdue):
                subscription.refused = LlmError.from_report(why.report())
                self.unsubscribe(channel)

    async def _open(self, connection: PubSub) -> None:
        """Connect, and subscribe to the hub's own channel. The reading task then subscribes to all others."""
        await connection.open(self._hub_channel)
        self._unwanted.clear()
        self._wanted = dict.fromkeys(self._subscriptions)
        self._unconfirmed = 0
        self._wake_reader()

    async def _read(self, connection: PubSub) -> None:
        silences = 0
        while True:
            heard = False
            try:
                async with asyncio.timeout(self._server.timings.silence_s) as self._wake:
                    while not self._pending:
                        await self._deliver_next(connection)
                        heard = self._heard = True
            except TimeoutError:
                pass
            finally:
                self._wake = None  # a timeout that has ended cannot be rescheduled
            if self._pending:
                await self._send_pending(connection)
            elif heard:
                silences = 0
            elif silences < self._server.timings.silences:
                silences += 1
                await connection.send("PING")
            else:
                raise connection.lost(TimeoutError("no answer to PING"))

    async def _deliver_next(self, connection: PubSub) -> None:
        match await connection.read():
            case [bytes(kind), bytes(channel), data]:
                self._deliver(kind, channel, data)

    async def _send_pending(self, connection: PubSub) -> None:
        wanted = list(islice(self._wanted, max(0, _MOST_AT_ONCE - self._unconfirmed)))
        for channel in wanted:
            del self._wanted[channel]
        # Some of these channels may have a new subscription.
        unwanted = [channel for channel in self._unwanted if channel not in self._subscriptions]
        self._unwanted.clear()
        self._unconfirmed += len(wanted)
        self._wake_reader()
        if wanted:
            await connection.send("SUBSCRIBE", *wanted)
        if unwanted:
            await connection.send("UNSUBSCRIBE", *unwanted)

    def _deliver(self, kind: bytes, channel: bytes, data: Reply) -> None:
        if kind == b"subscribe":
            self._unconfirmed -= 1
            if self._wanted:
                self._wake_reader()
        subscription = self._subscriptions.get(channel.decode(errors="replace"))
        if subscription is None:
            return
        if kind == b"message" and isinstance(data, bytes):
            self._call(subscription.handler, data)
        elif kind == b"subscribe":
            if subscription.confirmed.is_set():
                self._call(subscription.on_gap)
            subscription.confirmed.set()

    def _call(self, function: Callable[..., None], *args: bytes) -> None:
        try:
            function(*args)
        except Exception as error:  # an error in one handler must not stop the others
            self._errors.record("handler of a message", error)


@asynccontextmanager
async def open_hub(pool: Pool, gives_up_after_s: float | None = None) -> AsyncIterator[Hub]:
    """Open a hub on the pool's server. Its reading task runs until the block ends.

    Args:
        gives_up_after_s: for how long a subscription waits if the server cannot be reached, give or take a few seconds;
            None to wait forever.
    """
    hub = Hub(pool, gives_up_after_s)
    async with background() as tasks:
        tasks.create_task(restart_on_error("hub", hub._run, pool.internal_errors), name="tokenlane hub")
        yield hub
