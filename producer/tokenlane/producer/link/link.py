"""What a client needs of its link to a pool, whatever stands behind the link."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, TypeAlias

from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.support.tasks import InternalErrors

from .open_request import OpenRequest

Composed: TypeAlias = tuple[Envelope, bytes]
"""A request as it is submitted: what routers read, and the payload."""


class Link(Protocol):
    """Takes requests to a pool, and what comes back to the `OpenRequest`s that it gives for them.

    Attributes:
        client: the name under which this process is known to the pool, part of every envelope.
        internal_errors: the bugs that the link's tasks have survived.
    """

    client: str
    internal_errors: InternalErrors

    async def open(self, compose: Callable[[], Composed], idempotency_key: str | None = None) -> OpenRequest:
        """Submit a request; returns when the pool has accepted it. If the agent has submitted the idempotency key
        before, it is the request that has it and still runs.

        Args:
            compose: makes the request, once its turn has come: of a burst few are made and sent at once, so that the
                event loop has time for beats and answers. Its time to live counts from this call.

        Raises:
            LlmError: it could not be composed, or was refused.

        Cancellation: the request is cancelled if it reached the pool.
        """
        ...

    async def attach(self, request_id: str, position: int = 0) -> OpenRequest:
        """Join a request, from that position of its answer on, and own it from now on.

        Raises:
            RequestLost: the pool does not know it.
            BadRequest: its answer has ended before that position.
            PoolUnavailable: the pool does not answer.

        Cancellation: the request is cancelled if this client owns it by then.
        """
        ...

    async def cancel(self, request_id: str) -> bool:
        """Cancel a request, whoever reads it; False if it has ended otherwise, or the pool does not know it.

        Raises:
            PoolUnavailable: the pool does not answer.
        """
        ...

    def leave(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        """Read a request no more: it ends here now, and in the pool soon if this client owns it and nobody else here
        reads it. May be called again.

        Args:
            everywhere: end it in the pool even if others read it, or own it.
        """
        ...

    async def close(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        """Leave a request; returns when the pool has heard it, or after `Timings.goodbye_s`: it is told as soon as it
        can be.

        Cancellation: the pool is told all the same.
        """
        ...

    async def lanes(self) -> tuple[LaneView, ...]:
        """The pool's lanes as routers see them.

        Raises:
            PoolUnavailable: the pool does not answer.
        """
        ...


OpenLink: TypeAlias = Callable[[], AbstractAsyncContextManager[Link]]
"""Opens a link for as long as a block runs."""


@asynccontextmanager
async def opened(
    link: Link, compose: Callable[[], Composed], idempotency_key: str | None = None
) -> AsyncIterator[OpenRequest]:
    """A request that is open for a block; leaving the block before its end cancels it.

    Raises:
        LlmError: as `Link.open`.
    """
    request = await link.open(compose, idempotency_key)
    try:
        yield request
    finally:
        await link.close(request)
