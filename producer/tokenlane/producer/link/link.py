"""The protocol of a client's link to a pool, which a Redis link and an in-memory link implement."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, TypeAlias

from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.support.tasks import InternalErrors

from .open_request import OpenRequest

Composed: TypeAlias = tuple[Envelope, bytes]
"""A request to submit: the envelope, which routers read, and the payload."""


class Link(Protocol):
    """Submits requests to a pool, and returns an `OpenRequest` for each, which receives the request's messages.

    Attributes:
        client: this process's name in the pool; every envelope has it.
        pool: the pool as messages name it.
        internal_errors: tokenlane's own bugs that the link's tasks have survived.
    """

    client: str
    pool: str
    internal_errors: InternalErrors

    async def open(self, compose: Callable[[], Composed], idempotency_key: str | None = None) -> OpenRequest:
        """Submit a request; returns once the pool has accepted it. If a request of the same agent with the same
        idempotency key still runs, that one is returned.

        Args:
            compose: makes the request when its turn has come: of a burst only a few are made and sent at a time, so
                that the event loop has time for beats and answers. The time to live counts from this call.

        Raises:
            LlmError: the request is not valid, or was refused.

        Cancellation: the request is cancelled if it has reached the pool.
        """
        ...

    async def attach(self, request_id: str, position: int = 0) -> OpenRequest:
        """Join a request from this position of its answer on, and own it.

        Raises:
            RequestLost: the pool does not know the request.
            BadRequest: its answer has ended before that position.
            PoolUnavailable: the pool does not answer.

        Cancellation: the request is cancelled if this client owns it by then.
        """
        ...

    async def cancel(self, request_id: str) -> bool:
        """Cancel a request, whoever reads it; False if it ended in another way, or the pool does not know it.

        Raises:
            PoolUnavailable: the pool does not answer.
        """
        ...

    def leave(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        """Stop reading a request. It ends here now, and in the pool soon if this client owns it and has no other reader
        of it. A second call changes nothing.

        Args:
            everywhere: end it in the pool even if others read or own it.
        """
        ...

    async def close(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        """Leave a request. Returns once the pool has cancelled it, or after one second; the link then keeps trying.

        Cancellation: the link keeps trying.
        """
        ...

    async def lanes(self) -> tuple[LaneView, ...]:
        """The pool's lanes, as routers see them.

        Raises:
            PoolUnavailable: the pool does not answer.
        """
        ...


OpenLink: TypeAlias = Callable[[], AbstractAsyncContextManager[Link]]
"""A function that opens a link for the duration of a block."""


@asynccontextmanager
async def open_request(
    link: Link, compose: Callable[[], Composed], idempotency_key: str | None = None
) -> AsyncIterator[OpenRequest]:
    """A request that is open during the block; leaving the block before the request's end cancels it.

    Raises:
        LlmError: as `Link.open`.
    """
    request = await link.open(compose, idempotency_key)
    try:
        yield request
    finally:
        await link.close(request)
