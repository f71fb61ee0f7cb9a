"""The sending of one request to its pool, or of the wish to attach to it."""

from __future__ import annotations

import asyncio

from tokenlane.routing.contract.errors import DeadlineExceeded, QueueFull, RequestCancelled

_REFUSALS = QueueFull | RequestCancelled | DeadlineExceeded
"""Errors after which the pool surely does not have the request."""


class Submission:
    """Under way until the pool has answered; what the pool has lost is sent again."""

    def __init__(self) -> None:
        self._begun = False
        self._answer = asyncio.Event()
        self._accepted_as = ""
        self._refusal: Exception | None = None

    @property
    def under_way(self) -> bool:
        """Whether the pool is still to answer."""
        return not self._answer.is_set()

    @property
    def may_have_arrived(self) -> bool:
        """Whether the pool may have the request."""
        refused = not self._accepted_as and isinstance(self._refusal, _REFUSALS)
        return self._begun and not refused

    def begin(self) -> None:
        """It is on its way from now on."""
        self._begun = True
        self._answer.clear()

    def accepted(self, request_id: str) -> None:
        """The pool has the request under that id: that of another, if one with its idempotency key still runs."""
        self._accepted_as, self._refusal = request_id, None
        self._answer.set()

    def refused(self, error: Exception) -> None:
        """The pool does not take it in, or could not be reached."""
        self._refusal = error
        self._answer.set()

    async def answered(self) -> str:
        """Wait until the pool has answered: the id under which it has the request.

        Raises:
            Exception: what it was refused with.
        """
        await self._answer.wait()
        if self._refusal is not None:
            raise self._refusal
        return self._accepted_as
