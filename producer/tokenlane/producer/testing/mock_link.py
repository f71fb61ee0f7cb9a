"""The courier of a `MockPool`: takes no request anywhere, but has it answered in a task here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from tokenlane.producer.link.delta_buffer import Delivery
from tokenlane.producer.link.open_request import Exchange
from tokenlane.producer.link.redis_link import Courier
from tokenlane.routing.contract.errors import DeadlineExceeded, LlmError, RequestCancelled, RequestLost
from tokenlane.routing.contract.messages import Envelope
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.support.tasks import InternalErrors

from .mock_messages import Spoken

__all__ = ["MockCourier"]


class MockCourier(Courier):
    """Of all clients of a `MockPool`. `ask` notes a request, and gives the messages that answer it. `failure`: the
    first error, other than an `LlmError`, that a handler ended with."""

    def __init__(self, tasks: asyncio.TaskGroup, ask: Callable[[Envelope, bytes], Spoken]) -> None:
        self.exchanges, self._tasks, self._ask, self.internal_errors = {}, tasks, ask, InternalErrors()
        self._answers = dict[str, asyncio.Task[None]]()
        self.failure: Exception | None = None

    async def open(self, envelope: Envelope, payload: bytes, *_: object) -> Exchange:
        exchange = Exchange(envelope.id, envelope.role, None, Delivery(envelope.id), float("inf"), 0)
        answer = self._tasks.create_task(self._answer(exchange, self._ask(envelope, payload)))
        self.exchanges[exchange.id], self._answers[exchange.id] = [exchange], answer
        answer.add_done_callback(lambda _: self._over(exchange, RequestCancelled("the MockPool's handler broke off")))
        left_s = envelope.time_to_live_ms / 1000
        exchange.timer = asyncio.get_running_loop().call_later(left_s, self._over, exchange, DeadlineExceeded())
        return exchange

    async def attach(self, request_id: str, position: int = 0) -> Exchange:
        raise RequestLost("a MockPool has no requests to attach to")

    async def lanes(self) -> tuple[LaneView, ...]:
        return ()

    async def cancel(self, request_id: str) -> bool:
        exchanges = self.exchanges.get(request_id, [])
        for exchange in exchanges:
            self.abandon(exchange)
        return any(isinstance(exchange.delivery.error, RequestCancelled) for exchange in exchanges)

    def abandon(self, exchange: Exchange, *, everywhere: bool = False) -> None:
        self._over(exchange, RequestCancelled())

    async def _answer(self, exchange: Exchange, messages: Spoken) -> None:
        try:
            async with aclosing(messages):
                async for message in messages:
                    exchange.delivery.receive(message)
                    exchange.changed.set()
                    await asyncio.sleep(0)  # so that its reader may cancel it
                    if exchange.delivery.ended:
                        return
        except LlmError as error:
            exchange.delivery.fail(error)
        except Exception as error:
            self.failure = self.failure or error
            raise

    def _over(self, exchange: Exchange, error: LlmError) -> None:
        exchange.delivery.fail(error)
        exchange.changed.set()
        self._answers[exchange.id].cancel()
        if exchange.timer is not None:
            exchange.timer.cancel()
