"""Parses the reply of lua/start.lua: the attempt that a worker has claimed."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from pydantic import ValidationError

from tokenlane.routing.contract.envelope import Envelope, Needs
from tokenlane.routing.decide.policy import PromptPolicy
from tokenlane.routing.telemetry.attempt import EarlierAttempt, Waited

from .values import Reply, as_bytes, as_int, as_list, as_text, parse_queue

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClaimedAttempt:
    """An attempt that a worker has claimed.

    `payload`: as the agent sent it; `KeyAgreement.unseal` unseals it. `starts`: how often the request was started,
    including this time. `left_ms`: time to the deadline when the reply arrived; at most 0 if it had passed.
    `waited_ms`: time from submit to start. `needs`: the envelope's needs, or the needs that recovery replaced them
    with. `waited`: how long the request waited for this start, and the attempt before, for the trace. `prompt`: the
    prompt plugin that the policy had for the role at the request's first start.
    """

    attempt: int
    envelope: Envelope
    payload: bytes = field(repr=False)
    model: str
    starts: int
    left_ms: int
    waited_ms: int
    cancelled: bool
    needs: Needs
    waited: Waited = field(default_factory=Waited)
    prompt: PromptPolicy | None = None

    @property
    def is_first_start(self) -> bool:
        """Whether no worker started the request before, not even for an attempt that was not counted as a start."""
        before = self.waited.before
        return self.starts == 1 and (before is None or before.started_ms is None)


def parse_claim(reply: Reply, reply_ms: int) -> ClaimedAttempt | None:
    """Parse the reply of lua/start.lua. None: no attempt may run, or this version cannot read the envelope.

    Args:
        reply_ms: how long the reply took.
    """
    outcome, *rest = as_list(reply)
    if as_text(outcome) != "run":
        return None
    attempt, document, payload, model, starts, left_ms, waited_ms, cancelled, queue_name, *waited, prompt = rest
    try:
        envelope = Envelope.model_validate_json(as_bytes(document))
        plugin = PromptPolicy.model_validate_json(as_bytes(prompt)) if as_bytes(prompt) else None
    except ValidationError:
        logger.error(
            "this worker cannot read a request's envelope or its role's prompt plugin, and another worker gets the "
            "request when its lease lapses: run the same version of tokenlane on all hosts"
        )
        return None
    queue = parse_queue(queue_name)
    return ClaimedAttempt(
        attempt=as_int(attempt),
        envelope=envelope,
        payload=as_bytes(payload),
        model=as_text(model),
        starts=as_int(starts),
        left_ms=as_int(left_ms) - reply_ms,
        waited_ms=as_int(waited_ms),
        cancelled=as_int(cancelled) == 1,
        needs=envelope.needs if queue is None else queue.needs,
        waited=_parse_waited(*waited),
        prompt=plugin,
    )


def _parse_waited(queued_ms: Reply, dispatched_ms: Reply, before: Reply) -> Waited:
    earlier = None
    if fields := as_list(before):
        attempt, lane, model, started_ms, code, span = fields
        ms = as_int(started_ms)
        earlier = EarlierAttempt(
            as_int(attempt), as_text(lane), as_text(model), None if ms < 0 else ms, as_text(code), as_text(span)
        )
    return Waited(as_int(queued_ms), as_int(dispatched_ms), earlier)
