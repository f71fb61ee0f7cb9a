"""Opens the payload of a request, and validates it for its kind of work."""

from __future__ import annotations

from pydantic import ValidationError

from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.requests import Request
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.running_attempts import Run

from .retry_until_answered import retry_until_answered


async def read(lane: Lane, run: Run) -> Request:
    """Open and validate the payload; messages about the attempt are sealed with the same key from then on. While the
    pool is unavailable, a payload with an unknown key id has to wait.

    Raises:
        BadRequest: the payload is not a valid request of its kind, or was altered after it was sealed.
        PoolKeyMismatch: this worker lacks the key. The error is `retryable` if another worker may have the key.
    """
    envelope = run.claim.envelope
    payload = await retry_until_answered(
        lane,
        f"open the payload of request {run.id}",
        lambda: lane.pool.key_agreement.unseal(envelope, run.claim.payload),
    )
    if (key := lane.pool.keychain.key_of(envelope)) is not None:
        run.use_key(key)
    try:
        return KINDS[envelope.kind].request.model_validate_json(payload)
    except ValidationError as error:
        fields = sorted({str(part["loc"][0]) for part in error.errors(include_input=False) if part["loc"]})
        raise BadRequest(f"The request is not valid: check {', '.join(fields) or 'its JSON'}.") from None
