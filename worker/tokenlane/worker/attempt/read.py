"""Opens the payload of a request and parses it as its kind of work demands."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from pydantic import ValidationError

from tokenlane.routing.contract.errors import BadRequest, PoolUnavailable
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.requests import Request
from tokenlane.routing.store.request_life import ClaimedAttempt
from tokenlane.worker.lane.lane import Lane


async def read(lane: Lane, started: ClaimedAttempt) -> Request:
    """Open the payload. The pool is asked about an unknown key until it answers.

    Raises:
        BadRequest: the payload is not a valid request of its kind, or was altered after it was sealed.
        PoolKeyMismatch: this worker lacks the key; `retryable` if another worker may have it.
    """
    while True:
        with suppress(PoolUnavailable):
            payload = await lane.pool.key_agreement.unseal(started.envelope, started.payload)
            break
        await asyncio.sleep(lane.timings.retry_s)
    try:
        return KINDS[started.envelope.kind].request.model_validate_json(payload)
    except ValidationError as error:
        fields = sorted({str(part["loc"][0]) for part in error.errors(include_input=False) if part["loc"]})
        raise BadRequest(f"the request could not be read; check {', '.join(fields) or 'its JSON'}") from None
