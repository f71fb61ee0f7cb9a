"""The steps in the life of a request, from submit to finish. Each method runs the Lua script of the same name.

Every method may be retried, because a script that runs twice returns the same reply.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.errors import Duplicate, LlmError, QueueFull, RequestCancelled, RequestLost
from tokenlane.routing.contract.messages import Failed
from tokenlane.routing.contract.sealing.payloads import seal
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.decide.role_fairness import Head
from tokenlane.routing.decide.wait_cause import WaitingRequest

from .keychain import Keychain
from .replies.claim import ClaimedAttempt, parse_claim
from .replies.values import Reply, as_int, as_list, as_text
from .scripts import Scripts
from .server import Urgency

_PURGED_AT_ONCE = 100

Ending = Literal["completed", "failed", "cancelled", "expired"]
RequestOutcome: TypeAlias = Ending | Literal["requeued", "left"]
"""What became of a request when an attempt ended. `left`: another attempt runs it, or a router recovers it when its
lease runs out."""
State = Literal["missing", "waiting", "delayed", "dispatched", "running", Ending]


@dataclass(frozen=True)
class RequestStatus:
    """The state of a request.

    Attributes:
        attempt: the newest attempt; 0 if there was none.
        worker: the worker that runs or ran that attempt; '' if no worker has started it.
        end: how many deltas the answer has; None if the request has not ended.
        code: the code of the error with which the request ended; '' if there is none.
        owner: the client that keeps the request alive; '' if the server knows the request only from its worker.
        lapses_ms: time until the attempt's lease lapses unless the worker renews it; None if there is no lease. Only
            replies to a client's beat have it.
        waiting: what explains why it waits; None if it runs or has ended. Only replies to a client's beat have it.
    """

    state: State
    attempt: int
    worker: str
    end: int | None
    code: str
    owner: str
    lapses_ms: int | None = None
    waiting: WaitingRequest | None = None


@dataclass(frozen=True)
class Attachment:
    """A request that a client has taken over. `left_ms`: time to its deadline."""

    status: RequestStatus
    role: str
    left_ms: int


class Requests:
    """Runs the steps in the life of a pool's requests."""

    def __init__(self, scripts: Scripts, keychain: Keychain) -> None:
        self._scripts = scripts
        self._keychain = keychain

    async def submit(self, envelope: Envelope, payload: bytes, floor: int = 0) -> str:
        """Submit a request to the pool.

        Args:
            envelope: the part of the request that routers read.
            payload: the part that only agent and worker read. This method seals it with the newest key that both the
                pool and the agent have.
            floor: the newest attempt that the agent has seen, if it submits a request again that the pool has lost, or
                of which the end of the answer is lost; otherwise 0.

        Returns:
            The request's id; or, if the agent has a live request with the same idempotency key, the id of that request.

        Raises:
            Duplicate: the agent has a request with the same idempotency key, which has ended.
            QueueFull: the role or the agent has too many requests, or the server is out of memory.
            PoolKeyMismatch: the pool's keys have changed, and the agent has none of the new keys.
            RequestCancelled: the request was cancelled before it arrived.
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
                *(("", 0) if envelope.quota is None else (envelope.quota.name, envelope.quota.in_flight)),
                urgency=Urgency.NEW_WORK,
            )
            outcome, *rest = as_list(reply)
            if as_text(outcome) != "key":
                break
            self._keychain.learn(as_text(rest[0]))
            if self._keychain.key in (None, key):
                raise self._keychain.mismatch()
        if as_text(outcome) == "accepted":
            self._keychain.learn(as_text(rest[0]))
            return envelope.id
        if as_text(outcome) == "cancelled":
            raise RequestCancelled
        if as_text(outcome) == "known":
            known, state = map(as_text, rest)
            if state in get_args(Ending):
                raise _duplicate(known, state)
            return known
        raise _queue_full(envelope, as_text(rest[0]), as_int(rest[1]) / 1000)

    async def dispatch(self, head: Head, lane: str, model: str, token: str) -> int | None:
        """Dispatch a request to a lane. Returns the number of the new attempt; None if the request no longer waits, or
        does not pass the lane's gates.

        Args:
            head: the request, from a survey.
            model: the model that the lane uses for the request.
            token: a new value for each decision, by which the server recognises a call that is sent twice.
        """
        reply = await self._scripts.run("dispatch", head.id, head.queue.name, head.agent, lane, model, token)
        outcome, *rest = as_list(reply)
        return as_int(rest[0]) if as_text(outcome) == "dispatched" else None

    async def start(self, request_id: str, attempt: int, worker: str) -> ClaimedAttempt | None:
        """Claim an attempt for a worker. Returns None if the attempt is over, if another worker has claimed it, or if
        this version cannot read the envelope."""
        asked_at = time.monotonic()
        reply = await self._scripts.run("start", request_id, attempt, worker)
        return parse_claim(reply, math.ceil(1000 * (time.monotonic() - asked_at)))

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
        cause: str = "",
        longest_delay_ms: int | None = None,
        span: str = "",
    ) -> str:
        """End an attempt, and put its request back into a queue.

        Args:
            worker: the worker that runs the attempt; '' if the attempt's lease has lapsed.
            due_ms: time for which the request is delayed before it waits in the queue.
            queue: the queue in which the request waits from now on; None for the same queue as before.
            counts: whether the attempt counts as a start of the request. An attempt that never reached its model server
                does not count.
            alone: whether the request must from now on run on a lane that runs nothing else.
            cause: why the attempt ended, for operators: an error's code, or another word without text from the request;
                '' if no worker started the attempt in time, or if its worker is lost.
            longest_delay_ms: if given, the retry is taken from the pool's retry budget, which may delay the request for
                this time at most.
            span: the trace context of the attempt's span, for `Waited.before`; '' if there is none.

        Returns:
            The request's new state; `stale` if the worker no longer runs the attempt or, without a worker, if the lease
            has not lapsed; `spent` if the retry budget allows no retry in time: the attempt has then not ended; `lost`
            if the server has lost the payload or, with a worker, the request: the worker must then forget it.
        """
        name = "" if queue is None else queue.name
        budget = "" if longest_delay_ms is None else longest_delay_ms
        args = (request_id, attempt, worker, name, due_ms, int(counts), int(alone), cause, budget, span)
        return as_text(await self._scripts.run("requeue", *args))

    async def forget(self, request_id: str, attempt: int, worker: str) -> str:
        """Delete a request whose payload the server has lost, so that its agent submits it again.

        Args:
            worker: the worker that runs the attempt; '' if the attempt's lease has lapsed.

        Returns:
            `forgotten`; `cancelled` or `expired` if the request ended so instead; `stale` if the worker no longer runs
            the attempt or, without a worker, if the lease has not lapsed.
        """
        return as_text(await self._scripts.run("forget", request_id, attempt, worker))

    async def finish(
        self,
        request_id: str,
        attempt: int,
        worker: str,
        ending: Ending,
        end: int,
        code: str,
        message: bytes,
        *,
        lane: str | None = None,
    ) -> Literal["done", "missed"] | None:
        """End the request of an attempt that a worker runs.

        Args:
            end: how many deltas the answer has.
            code: the error's code; '' if there is no error.
            message: the last message to the agent, which this publishes.
            lane: the lane that failed; '' if that is not known; None for the lane that runs the attempt.

        Returns:
            `missed` if no client received the message, or that is not known; otherwise `done`. None if the worker no
            longer runs the attempt.

        Raises:
            RequestLost: the server has lost the request. The worker's next beat restores it.
        """
        args = (request_id, attempt, worker, ending, end, code, message, *(() if lane is None else (lane,)))
        reply = as_text(await self._scripts.run("finish", *args))
        if reply == "unknown":
            raise RequestLost("The Redis server lost its data while the request was running.")
        return cast("Literal['done', 'missed']", reply) if reply != "stale" else None

    async def fail(self, request_id: str, attempt: int, error: LlmError, *, lapsed: bool = False) -> bool:
        """Fail a request that waits, or whose lease has lapsed. Returns False if the request is in another state, has a
        newer attempt, was cancelled, or has passed its deadline.

        Args:
            attempt: the request's newest attempt, as far as the caller knows; 0 if there was none.
            lapsed: whether the lease of that attempt has lapsed.
        """
        message = Failed(attempt=attempt, error=error.report()).to_wire()
        # If no lane can serve a request, the lane that tried it last is not to blame.
        failed_on = () if lapsed else ("",)
        args = (request_id, attempt, "", "failed", 0, error.code, message, *failed_on)
        return as_text(await self._scripts.run("finish", *args)) == "done"

    async def cancel(self, request_id: str, leaving: str = "") -> str:
        """Cancel a request.

        Args:
            leaving: the client that no longer wants the request; '' to cancel it whoever owns it.

        Returns:
            `cancelled` if the request is cancelled; `flagged` if it runs and its worker was notified; `ended` if it had
            ended in another way; `kept` if another client than `leaving` owns it; `unknown` if the server does not know
            it.
        """
        return as_text(await self._scripts.run("cancel", request_id, leaving))

    async def purge(self, request_ids: Sequence[str]) -> int:
        """Cancel those of these requests that wait or are delayed, for an operator; return how many that were."""
        cancelled = 0
        for first in range(0, len(request_ids), _PURGED_AT_ONCE):
            batch = request_ids[first : first + _PURGED_AT_ONCE]
            cancelled += as_int(await self._scripts.run("purge", *batch))
        return cancelled

    async def attach(self, client: str, request_id: str) -> Attachment:
        """Make a client the owner of a request. The state is `missing` if the server does not know the request."""
        *status, role, left_ms = as_list(await self._scripts.run("attach", client, request_id))
        return Attachment(parse_status(status), as_text(role), as_int(left_ms))


def parse_status(fields: Sequence[Reply], lapses_ms: int = -1) -> RequestStatus:
    """Parse the values that `status_of` in lua/shared/base.lua returns. A negative `lapses_ms` means no lease."""
    state, attempt, worker, end, code, owner = fields
    return RequestStatus(
        state=cast("State", as_text(state)),
        attempt=as_int(attempt),
        worker=as_text(worker),
        end=int(as_text(end)) if as_text(end) else None,
        code=as_text(code),
        owner=as_text(owner),
        lapses_ms=lapses_ms if lapses_ms >= 0 else None,
    )


def _queue_full(envelope: Envelope, whose: str, seconds: float) -> QueueFull:
    """The error for a request over a limit. `whose`: the limit of its `role`, its `agent` or its `quota`."""
    who, allowed = f"Agent {envelope.agent!r}", "the policy's `in_flight` allows"
    if whose == "role":
        who, allowed = f"Role {envelope.role!r}", "the policy's `depth` allows"
    elif whose == "quota" and (quota := envelope.quota) is not None:
        who, allowed = f"{quota.name!r}", f"its limit of {quota.in_flight} allows"
    return QueueFull(
        f"{who} already has as many requests, waiting and running, as {allowed}: send the request again in "
        f"{seconds:.1f} s.",
        retry_after_s=seconds,
    )


def _duplicate(request_id: str, state: str) -> Duplicate:
    return Duplicate(
        f"A request with this idempotency key is already {state}: to read its answer, attach to it within a minute of "
        "its end; for a new answer, use another key."
    ).at(request_id=request_id)
