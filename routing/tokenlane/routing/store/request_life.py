"""The life of a request: one method per step, one script each.

What a script does is said in `lua/`; here is only how it is called and what comes back. Every method may be retried: a
script sent twice answers as it did the first time.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from pydantic import ValidationError

from tokenlane.routing.contract.envelope import Envelope, Needs
from tokenlane.routing.contract.errors import Duplicate, LlmError, QueueFull, RequestCancelled, RequestLost
from tokenlane.routing.contract.messages import Failed
from tokenlane.routing.contract.seal import seal
from tokenlane.routing.decide.fairness import Head, Queue

from .keychain import Keychain
from .replies.values import Reply, as_bytes, as_int, as_list, as_text, read_queue
from .scripts import Scripts
from .server import Urgency

logger = logging.getLogger(__name__)

Ending = Literal["completed", "failed", "cancelled", "expired"]
State = Literal["missing", "waiting", "delayed", "dispatched", "running", "completed", "failed", "cancelled", "expired"]


@dataclass(frozen=True)
class Accepted:
    """The request is in its role's stream. `id`: the request's, or that of the one that has its idempotency key and has
    not ended. `revision`: the policy's."""

    id: str
    revision: int


@dataclass(frozen=True)
class Started:
    """What a worker is given to run. `starts`: how often the request was started, this time included. `needs`: as they
    are by now, the envelope's or what recovery has made of them.

    `payload` is as the agent sealed it: `Keychain.unseal` opens it.
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


@dataclass(frozen=True)
class Standing:
    """How a request stands. `end`: how many deltas its answer has, once it has ended. `owner`: the client that keeps it
    alive; '' where the server has learnt of the request from its worker only. `lapses_ms`: how long the lease of its
    attempt lasts, if it is not renewed; None where there is no lease, or nobody has asked."""

    state: State
    attempt: int
    worker: str
    end: int | None
    code: str
    owner: str
    lapses_ms: int | None = None


@dataclass(frozen=True)
class Attachment:
    """How a request stands that a client has taken over, and what that client must know of it."""

    standing: Standing
    role: str
    left_ms: int


class Requests:
    """The requests of a pool."""

    def __init__(self, scripts: Scripts, keychain: Keychain) -> None:
        self._scripts = scripts
        self._keychain = keychain

    async def submit(self, envelope: Envelope, payload: bytes, floor: int = 0) -> Accepted:
        """Take a request in.

        Args:
            envelope: what routers read.
            payload: the rest; it is sealed here, under the newest key that the pool and the agent have.
            floor: the newest attempt the agent has seen, when a lost request is sent again.

        Raises:
            Duplicate: the agent has submitted the idempotency key before, and that request has ended.
            QueueFull: the role or the agent has too many requests, or the server no memory.
            PoolKeyMismatch: the pool's keys have changed, and none of them is the agent's.
            RequestCancelled: it was cancelled before it came.
        """
        queue = Queue.of(envelope)
        while True:
            key = self._keychain.key
            if key is not None:
                envelope = envelope.model_copy(update={"key_id": key.id})
            reply = await self._scripts.run(
                "submit",
                *(envelope.id, envelope.role, queue.name, envelope.agent, envelope.client, envelope.kind),
                *(envelope.time_to_live_ms, floor, envelope.to_wire()),
                *(payload if key is None else seal(payload, envelope.id, key), envelope.key_id or ""),
                envelope.idempotency or "",
                urgency=Urgency.NEW_WORK,
            )
            outcome, *rest = as_list(reply)
            if as_text(outcome) != "key":
                break
            self._keychain.learn(as_text(rest[0]))
            if self._keychain.key in (None, key):
                raise self._keychain.mismatch()
        if as_text(outcome) == "accepted":
            self._keychain.learn(as_text(rest[1]))
            return Accepted(envelope.id, as_int(rest[0]))
        if as_text(outcome) == "cancelled":
            raise RequestCancelled
        if as_text(outcome) == "known":
            revision, known, state = rest
            if as_text(state) in get_args(Ending):
                raise _duplicate(as_text(known), as_text(state))
            return Accepted(as_text(known), as_int(revision))
        whose = f"role {envelope.role!r}" if as_text(rest[0]) == "role" else f"agent {envelope.agent!r}"
        seconds = as_int(rest[1]) / 1000
        raise QueueFull(f"{whose} has too many requests: send again in {seconds:.1f} s", retry_after_s=seconds)

    async def dispatch(self, head: Head, lane: str, model: str, token: str) -> int | None:
        """Give the request to the lane; the attempt's number, or None if that was not possible any more."""
        reply = await self._scripts.run("dispatch", head.id, head.queue.name, head.agent, lane, model, token)
        outcome, *rest = as_list(reply)
        return as_int(rest[0]) if as_text(outcome) == "dispatched" else None

    async def start(self, request_id: str, attempt: int, worker: str) -> Started | None:
        """Claim an attempt; None if it is not to be run any more, or by another."""
        return _started(await self._scripts.run("start", request_id, attempt, worker))

    async def requeue(
        self,
        request_id: str,
        attempt: int,
        worker: str,
        due_ms: int = 0,
        *,
        queue: Queue | None = None,
        counts: bool = True,
        alone: bool = False,
    ) -> str:
        """Give an attempt back; the state the request is in now, `stale`, or `lost` if the server has forgotten what it
        was.

        Args:
            worker: that has the attempt; '' if its lease is over.
            due_ms: how long it waits before any lane may have it.
            queue: where it waits from now on; None: where it did.
            counts: the attempt is one of those a request has; False if it never reached its back end.
            alone: it is to run on a lane that runs nothing else.
        """
        name = "" if queue is None else queue.name
        args = (request_id, attempt, worker, name, due_ms, int(counts), int(alone))
        return as_text(await self._scripts.run("requeue", *args))

    async def finish(
        self, request_id: str, attempt: int, worker: str, ending: Ending, end: int, code: str, message: bytes
    ) -> bool:
        """End a request, and tell its agent; False if the attempt is no longer the worker's.

        Raises:
            RequestLost: the server has forgotten the request; once the worker has beaten, it is known again.
        """
        reply = as_text(await self._scripts.run("finish", request_id, attempt, worker, ending, end, code, message, ""))
        if reply == "unknown":
            raise RequestLost("the server was wiped while the request ran")
        return reply == "done"

    async def refuse(self, request_id: str, attempt: int, error: LlmError, *, lapsed: bool = False) -> bool:
        """Fail a request that waits; False if it no longer does.

        Args:
            attempt: the newest.
            lapsed: it does not wait, and the lease of that attempt is over.
        """
        args = (request_id, attempt if lapsed else "", "", "failed", 0, error.code, _failed(attempt, error), "")
        return as_text(await self._scripts.run("finish", *args)) == "done"

    async def interrupt(self, client: str, request_id: str, attempt: int, end: int, error: LlmError) -> bool:
        """Fail a request that waits although its client has a part of its answer; False if another client owns it, or
        another attempt has begun.

        Args:
            attempt: the newest.
            end: how many deltas the client has.
        """
        args = (request_id, attempt, "", "failed", end, error.code, _failed(attempt, error), client)
        return as_text(await self._scripts.run("finish", *args)) == "done"

    async def cancel(self, request_id: str, leaving: str = "") -> str:
        """Cancel a request: `cancelled` at once, `flagged` for its worker, `ended` before, `unknown`, or `kept`.

        Args:
            leaving: the client that has no more use for it; the request is `kept` if another client owns it.
        """
        return as_text(await self._scripts.run("cancel", request_id, leaving))

    async def attach(self, client: str, request_id: str) -> Attachment:
        """Make the client the request's owner; how it stands, `missing` if the server does not know it."""
        return _attachment(await self._scripts.run("attach", client, request_id))


def _started(reply: Reply) -> Started | None:
    outcome, *rest = as_list(reply)
    if as_text(outcome) != "run":
        return None
    attempt, document, payload, model, starts, left_ms, waited_ms, cancelled, queue_name = rest
    envelope = _envelope(as_bytes(document))
    if envelope is None:
        return None
    queue = read_queue(queue_name)
    return Started(
        attempt=as_int(attempt),
        envelope=envelope,
        payload=as_bytes(payload),
        model=as_text(model),
        starts=as_int(starts),
        left_ms=as_int(left_ms),
        waited_ms=as_int(waited_ms),
        cancelled=as_int(cancelled) == 1,
        needs=envelope.needs if queue is None else queue.needs,
    )


def _attachment(reply: Reply) -> Attachment:
    *standing, role, left_ms = as_list(reply)
    return Attachment(read_standing(standing), as_text(role), as_int(left_ms))


def read_standing(reply: Reply) -> Standing:
    """How a request stands, as the scripts say it."""
    state, attempt, worker, end, code, owner = as_list(reply)
    return Standing(
        state=cast("State", as_text(state)),
        attempt=as_int(attempt),
        worker=as_text(worker),
        end=int(as_text(end)) if as_text(end) else None,
        code=as_text(code),
        owner=as_text(owner),
    )


def _envelope(document: bytes) -> Envelope | None:
    try:
        return Envelope.model_validate_json(document)
    except ValidationError:
        logger.error("a request cannot be read and is left to its lease: run one version of tokenlane everywhere")
        return None


def _failed(attempt: int, error: LlmError) -> bytes:
    return Failed(attempt=attempt, error=error.report()).to_wire()


def _duplicate(request_id: str, state: str) -> Duplicate:
    error = Duplicate(
        f"request {request_id} had this idempotency key and is {state}: attach to it within a minute of its end for "
        "its answer, or ask anew with another key"
    )
    error.request_id = request_id
    return error
