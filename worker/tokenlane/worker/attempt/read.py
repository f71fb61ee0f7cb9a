"""Opens the payload of a request and reads it as its kind says."""

from __future__ import annotations

import asyncio

from pydantic import ValidationError

from tokenlane.routing.contract.errors import BadRequest, PoolUnavailable
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.requests import Request
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.request_life import Started

_ASK_AGAIN_S = 0.2


async def read(pool: Pool, started: Started) -> Request:
    """Open the payload. The pool is asked about an unknown key until it answers.

    Raises:
        BadRequest: it is no request of its kind, or not as it was sealed.
        PoolKeyMismatch: it is sealed with a key this worker does not have; `retryable` if another may have it.
    """
    try:
        while True:
            try:
                payload = await pool.sealing.unseal(started.envelope, started.payload)
                return KINDS[started.envelope.kind].request.model_validate_json(payload)
            except PoolUnavailable:
                await asyncio.sleep(_ASK_AGAIN_S)
    except ValidationError as error:
        fields = sorted({str(part["loc"][0]) for part in error.errors(include_input=False) if part["loc"]})
        raise BadRequest(f"the request could not be read; check {', '.join(fields) or 'its JSON'}") from None
