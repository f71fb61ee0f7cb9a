"""The protocol of a client's link to a pool. `RedisLink` and `MemoryLink` implement it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, TypeAlias

from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.support.tasks import InternalErrors

from .open_request import OpenRequest

Composed: TypeAlias = tuple[Envelope, bytes]
"""A request to submit: its envelope, which routers read, and its payload."""


class Link(Protocol):
    """Submits requests to a pool. Returns an `OpenRequest` for each, and passes the request's messages to it.

    Attributes:
        client: the client's id in the pool, which every envelope carries.
        pool: the pool's name in messages.
        internal_errors: counts the bugs in tokenlane that the link's tasks have survived.
    """

    client: str
    pool: str
    internal_errors: InternalErrors

    async def open(
        self, compose: Callable[[], Composed], idempotency_key: str | None = None, *, may_restart: bool = False
    ) -> OpenRequest:
        """Submit a request. Returns once the pool has accepted it.

        If the same agent has an open request with the same idempotency key, the link attaches to that request instead.

        Args:
            compose: makes the envelope and the payload. In a burst of requests the link makes and sends only a few at
                a time, so that the event loop has time for beats and answers. The time to live counts from the call of
                `open`.
            may_restart: whether the reader allows the answer to begin anew.

        Raises:
            LlmError: the request is not valid, or the pool refused it.

        Cancellation: the request is cancelled if it has reached the pool.
        """
        ...

    async def attach(self, request_id: str, position: int = 0, *, may_restart: bool = False) -> OpenRequest:
        """Join a request at a position of its answer, and become its owner.

        Args:
            may_restart: whether the reader allows the answer to begin anew.

        Raises:
            RequestLost: the pool does not know the request.
            BadRequest: its answer has ended before that position.
            PoolUnavailable: the pool does not answer.

        Cancellation: the request is cancelled if this client already owns it.
        """
        ...

    async def cancel(self, request_id: str) -> bool:
        """Cancel a request for all its readers. Returns False if it ended in another way or is unknown to the pool.

        Raises:
            PoolUnavailable: the pool does not answer.
        """
        ...

    def leave(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        """Stop reading a request, without waiting. A second call has no effect.

        The link cancels the request in the pool if this client owns it and has no other reader for it.

        Args:
            everywhere: cancel the request even if others read or own it.
        """
        ...

    async def close(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        """Leave a request. Returns once the pool has cancelled it, or after one second; the link then keeps trying.

        Cancellation: the link keeps trying.
        """
        ...

    async def take_over(self, request: OpenRequest) -> None:
        """Become the owner of a request again, if another client has become it since.

        Raises:
            PoolUnavailable: the pool does not answer.
        """
        ...

    def let_go(self, request: OpenRequest) -> None:
        """Stop reading a request without cancelling it, just before this client is closed. The pool cancels it unless
        another client attaches to it within the pool's orphan timeout."""
        ...

    async def lanes(self) -> tuple[LaneView, ...]:
        """Return the pool's lanes as routers see them, without fallback lanes.

        Raises:
            PoolUnavailable: the pool does not answer.
        """
        ...


OpenLink: TypeAlias = Callable[[], AbstractAsyncContextManager[Link]]
"""A function that opens a link for the duration of a block."""


@asynccontextmanager
async def open_request(
    link: Link, compose: Callable[[], Composed], idempotency_key: str | None = None, *, may_restart: bool = False
) -> AsyncIterator[OpenRequest]:
    """Submit a request and keep it open during the block. Leaving the block before the request's end cancels it.

    Args:
        may_restart: whether the reader allows the answer to begin anew.

    Raises:
        LlmError: the errors of `Link.open`.
    """
    request = await link.open(compose, idempotency_key, may_restart=may_restart)
    try:
        yield request
    finally:
        await link.close(request)
