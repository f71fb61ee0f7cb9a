"""The client's beat: keeps its requests from being taken for orphans, and finds what pub/sub has lost.

A beat is sent every 2 s, whatever the streams do. It asks the pool about each stream that has been silent for that
long, and again when the lease of its attempt is over: an answer that broke off is ended here, also where no router and
no worker is left to end it. An end that was lost is asked of the worker, or taken from the request's hash if no worker
answers; a request that the server no longer knows is sent again if nothing of it was delivered.

A stream is judged without an await between reading and writing its state. What the pool is to be asked for that is
returned as steps, which are taken afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias, assert_never

from tokenlane.routing.contract.errors import (
    DeadlineExceeded,
    ErrorReport,
    LlmError,
    PoolUnavailable,
    QueueFull,
    RequestLost,
)
from tokenlane.routing.contract.messages import Failed, Needs, Progress
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.decide.no_candidate import no_lane, why_unready
from tokenlane.routing.decide.policy import Policy, all_heard_ms, candidates, served_name
from tokenlane.routing.decide.recovery import End, History, PoolForgot, WorkerLost, answer_lost, decide
from tokenlane.routing.store.beats import Checked
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.requests import Standing
from tokenlane.routing.support.tasks import together

from .open_request import LACKING_EVERY_S, UNCERTAIN_EVERY_S, OpenRequest, Question
from .redis_link import RedisLink

__all__ = ["Heartbeat", "reason"]

logger = logging.getLogger(__name__)

_PERIOD_S = 2.0
_PERIODS_A_LEASE = 3
_AWAY_S = 0.5
_BATCH = 128
_ENDED_PATIENCE_S = 3.0
_RUNNING_PATIENCE_S = 10.0
_TAKEN_UP_S = 0.5
"""How long another worker has to take up an answer that broke off."""
_LAPSED_S = 0.01
_AGE = re.compile(r" \(last seen \d+ s ago\)")

_Step: TypeAlias = Coroutine[None, None, None]


def reason(waiting: str) -> str:
    """Why a request waits, without for how long lanes have been away: that is another word every second."""
    return _AGE.sub("", waiting)


class Heartbeat:
    """The beat of one client."""

    def __init__(self, pool: Pool, link: RedisLink, client: str) -> None:
        self._pool = pool
        self._link = link
        self._client = client
        self._away = False
        self._absent: tuple[LaneView, ...] = ()
        self._policy: Policy | None = None
        self._pulls: Mapping[str, Mapping[str, Progress]] = {}
        self._lease_ms = Policy().lease_ms
        self._patience_ms = Policy().patience_ms
        self._deserted_since: float | None = None
        self._due: dict[OpenRequest, float] = {}

    async def run(self) -> None:
        """Beat for ever."""
        clock = asyncio.get_running_loop().time
        while True:
            silent = self._silent()
            batches = [silent[i : i + _BATCH] for i in range(0, len(silent), _BATCH)] or [[]]
            for number, batch in enumerate(batches):
                await self._try_beat(batch, counting=number == 0)
                await self._look_until(clock() + (_AWAY_S if self._away else self._period_s / len(batches)))

    async def beat(self, requests: Sequence[OpenRequest] = (), *, counting: bool = False) -> None:
        """Beat once, and see to these requests.

        Args:
            counting: ask for requests that the server has and this client does not hold, and cancel them.

        Raises:
            PoolUnavailable: the server does not answer.
        """
        clock = asyncio.get_running_loop().time
        asked_at, held = clock(), self._link.held if counting else None
        checked = await self._pool.beats.check(self._client, [request.id for request in requests], held=held)
        self._note_back(checked)
        if checked.absent and (self._policy is None or self._policy.revision != checked.revision):
            with suppress(LlmError):  # only words hang on it
                self._policy = await self._pool.policies.read()
        steps: list[_Step] = []
        for request, standing in zip(requests, checked.standings, strict=True):
            # What was heard since is newer than what the pool says.
            if request.buffer.ended or not request.accepted or request.heard_at > asked_at:
                continue
            try:
                steps += self._judge(request, standing, clock())
            except Exception as error:  # the other streams are judged all the same
                self._pool.internal_errors.note("judging of a request", error)
            request.changed.set()
        await together(*map(self._take, steps), self._turn_away(checked.strangers))

    async def _try_beat(self, requests: Sequence[OpenRequest], *, counting: bool = False) -> None:
        for request in requests:
            self._due.pop(request, None)
        try:
            await self.beat(requests, counting=counting)
        except LlmError as error:
            self._note_away(error)

    async def _look_until(self, until: float) -> None:
        """Wait until then. Streams that are due before and still silent are seen to when they are due."""
        clock = asyncio.get_running_loop().time
        while (now := clock()) < until:
            due = [request for request, at in self._due.items() if at <= now]
            for request in due:
                if not self._is_silent(request, now):
                    del self._due[request]
            silent = [request for request in due if request in self._due]
            if silent:
                await self._try_beat(silent[:_BATCH])
            else:
                await asyncio.sleep(min([until, *self._due.values()]) - now)

    async def _take(self, step: _Step) -> None:
        try:
            await step
        except LlmError:
            raise
        except Exception as error:
            self._pool.internal_errors.note("judging of a request", error)

    @property
    def _period_s(self) -> float:
        """A worker's death is to be noticed within a lease and a second, so a stream's silence within a lease."""
        return min(_PERIOD_S, self._lease_ms / 1000 / _PERIODS_A_LEASE)

    def _silent(self) -> list[OpenRequest]:
        now = asyncio.get_running_loop().time()
        return [request for request in self._link if self._is_silent(request, now)]

    def _is_silent(self, request: OpenRequest, now: float) -> bool:
        """Whether the pool has the request, and nothing of its answer has come for a period."""
        return request.accepted and not request.buffer.ended and request.heard_at <= now - self._period_s

    async def _turn_away(self, strangers: Sequence[str]) -> None:
        """Cancel what the server has of this client and nobody here wants: what was submitted too late, and what an
        older snapshot of the server's has brought back."""
        unwanted = [request_id for request_id in strangers if request_id not in self._link.requests]
        await together(*(self._pool.requests.cancel(request_id, self._client) for request_id in unwanted))

    def _note_away(self, error: LlmError) -> None:
        if not self._away:
            logger.warning("the pool is away, streams wait until their deadlines: %s", error)
        self._away = True
        for request in self._link:
            if request.waiting is not None:
                request.waiting = str(error)

    def _note_back(self, checked: Checked) -> None:
        if self._away:
            logger.info("the pool is back")
        self._away = False
        self._absent = checked.absent
        self._pulls = checked.pulls
        serving = checked.routers > 0 and checked.lanes > 0
        if serving:
            self._link.idle_reason = None
        elif checked.absent:
            self._link.idle_reason = "no worker is connected to this pool"
        else:
            self._link.idle_reason = "no worker is connected to this pool: start one with `tokenlane worker`"
        self._lease_ms, self._patience_ms = checked.lease_ms, checked.patience_ms
        if checked.routers or checked.lanes or checked.absent:
            self._deserted_since = None
        elif self._deserted_since is None:
            self._deserted_since = asyncio.get_running_loop().time()

    def _judge(self, request: OpenRequest, standing: Standing, now: float) -> list[_Step]:
        """Take in how a request stands; what is to be asked of the pool for that."""
        if standing.state == "missing":
            return self._missing(request, now)
        request.missing_since = None
        if standing.lapses_ms is not None:
            self._due[request] = now + standing.lapses_ms / 1000 + _LAPSED_S
        steps = self._own(request, standing.owner)
        match standing.state:
            case "waiting" | "delayed" | "dispatched":
                steps += self._waiting(request, standing, now)
            case "running":
                request.waiting = request.broken_since = None
                self._running(request, standing)
            case "completed" | "failed" | "cancelled" | "expired":
                request.waiting = None
                self._ended(request, standing)
            case _:
                assert_never(standing.state)
        return steps

    def _waiting(self, request: OpenRequest, standing: Standing, now: float) -> list[_Step]:
        if request.buffer.position > 0 and request.buffer.attempt > 0:
            request.waiting = None
            return self._broken_off(request, standing, now)
        request.waiting = self._why(request, standing)
        if self._deserted(request, now):
            self._give_up(request, no_lane())
        return []

    def _why(self, request: OpenRequest, standing: Standing) -> str:
        """Why the request has not started."""
        away, unready = self._awaited(request)
        if self._link.idle_reason:
            return self._link.idle_reason + (f"; waiting for lane {away}" if away else "")
        if pull := _pull(request, self._pulls):
            return pull
        if standing.state == "dispatched":
            return f"given to a lane that serves role {request.role!r}, which is about to start it"
        if standing.state == "delayed":
            return "an attempt failed; it is tried again soon"
        told = [f"waiting in the queue of role {request.role!r}", *unready]
        return "; ".join([*told, f"lanes that are away: {away}"] if away else told)

    def _awaited(self, request: OpenRequest) -> tuple[str, list[str]]:
        """The lanes that may serve the request and take no work now: those whose workers are away, and why others take
        none."""
        if self._policy is None:
            return "", []
        asked = request.copy[0] if request.copy is not None else None
        needs, kind = (asked.needs, asked.kind) if asked is not None else (Needs(), "chat")
        found = candidates(self._policy, request.role, needs, self._absent, kind)
        lanes = [lane for lane, _ in found if not (lane.is_fallback or lane.has_left)]
        away = [lane for lane in lanes if lane.state.is_away]
        return (
            ", ".join(f"{lane.name!r} (last seen {lane.beat_ms / 1000:.0f} s ago)" for lane in away),
            [why_unready(lane) for lane in lanes if lane.state.is_unready],
        )

    def _deserted(self, request: OpenRequest, now: float) -> bool:
        """Whether no worker is coming: nobody has been there for as long as a request waits for one, and nobody was
        within the hour. Where a router lives, it is the one to say so.
        """
        if self._deserted_since is None:
            return False
        patience_s = max(self._patience_ms, all_heard_ms(self._lease_ms)) / 1000
        return now - max(self._deserted_since, request.opened_at) >= patience_s

    def _own(self, request: OpenRequest, owner: str) -> list[_Step]:
        if not request.owned or owner == self._client:
            return []
        if owner:
            request.owned = False  # another client has attached, and pub/sub lost the news
        elif request.copy is None:
            return [self._own_again(request)]
        return []

    async def _own_again(self, request: OpenRequest) -> None:
        await self._pool.requests.attach(self._client, request.id)

    def _broken_off(self, request: OpenRequest, standing: Standing, now: float) -> list[_Step]:
        """The attempt that gave a part of the answer is over, and no other has begun."""
        if request.broken_since is None:
            request.broken_since = now
        left_s = request.broken_since + _TAKEN_UP_S - now
        if left_s > 0:
            self._due[request] = now + left_s
            return []
        decision = decide(WorkerLost(), History(delivered=request.buffer.position), Policy())
        if isinstance(decision, End) and request.owned:
            return [self._interrupt(request, standing.attempt, decision.error)]
        if isinstance(decision, End):
            self._give_up(request, decision.error)
        return []

    async def _interrupt(self, request: OpenRequest, attempt: int, error: LlmError) -> None:
        """End the request for all who read it. Another attempt that has begun meanwhile asks how far this has got."""
        position = request.buffer.position
        message = Failed(attempt=attempt, error=error.report()).to_wire()
        if await self._pool.requests.interrupt(self._client, request.id, attempt, position, message):
            request.buffer.settled = True
            self._give_up(request, error)

    def _missing(self, request: OpenRequest, now: float) -> list[_Step]:
        request.ask(request.buffer.worker, request.buffer.attempt, UNCERTAIN_EVERY_S)
        if request.missing_since is None:
            request.missing_since = now
        # A worker that runs it writes it anew with its next beat.
        left_s = request.missing_since + all_heard_ms(self._lease_ms) / 1000 - now
        if left_s > 0:
            self._due[request] = now + left_s
            return []
        history = History(delivered=request.buffer.position)
        decision = decide(PoolForgot(kept=request.copy is not None), history, Policy())
        if isinstance(decision, End):
            self._give_up(request, decision.error)
            return []
        return [self._send_again(request)]

    async def _send_again(self, request: OpenRequest) -> None:
        error = await self._link.send_again(request)
        if request.buffer.ended:
            return
        match error:
            case None:
                request.missing_since = None
            case PoolUnavailable():
                raise error
            case QueueFull():  # it was accepted once: it is sent again with each beat
                request.waiting = f"the pool lost this request, and cannot take it in again yet: {error}"
            case LlmError():
                self._give_up(request, error)
            case _:
                self._give_up(request, RequestLost())

    def _running(self, request: OpenRequest, standing: Standing) -> None:
        if request.uncertain:
            request.ask(standing.worker, standing.attempt, UNCERTAIN_EVERY_S)
        if request.buffer.lacking and _unanswered(request.question, _RUNNING_PATIENCE_S):
            self._give_up(request, answer_lost("part"))

    def _ended(self, request: OpenRequest, standing: Standing) -> None:
        if not standing.worker or _unanswered(request.question, _ENDED_PATIENCE_S):
            self._told(request, standing)
        else:
            request.ask(standing.worker, standing.attempt, LACKING_EVERY_S)

    def _told(self, request: OpenRequest, standing: Standing) -> None:
        buffer = request.buffer
        buffer.settled = True
        if standing.state == "completed" and standing.end == buffer.position:
            buffer.complete()
            self._link.abandon(request)
            return
        match standing.state:
            case "completed":
                beyond = None if standing.end is None else buffer.beyond(standing.end)
                error: LlmError = beyond or answer_lost("end")
            case "cancelled":
                error = LlmError.from_report(ErrorReport(code="cancelled"))
            case "expired":
                error = DeadlineExceeded()
            case _:
                error = LlmError.from_report(ErrorReport(code=standing.code))
        self._give_up(request, error)

    def _give_up(self, request: OpenRequest, error: LlmError) -> None:
        request.buffer.fail(error)
        self._link.abandon(request)


def _unanswered(question: Question | None, patience_s: float) -> bool:
    if question is None or question.since is None:
        return False
    return asyncio.get_running_loop().time() - question.since >= patience_s


def _pull(request: OpenRequest, pulls: Mapping[str, Mapping[str, Progress]]) -> str | None:
    """The pull that the request may wait for: of its model, or of any if it names none."""
    asked = request.copy[0].needs.model if request.copy is not None else None
    for lane, models in pulls.items():
        for model, progress in models.items():
            if asked is None or served_name(asked, (model,)) is not None:
                return f"lane {lane!r} pulls {model!r}: {progress}"
    return None
