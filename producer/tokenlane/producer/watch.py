"""The client's beat: keeps its requests from being taken for orphans, and finds what pub/sub has lost.

Every 2 s, whatever the streams do. Of streams silent for that long it asks how they stand. An end that did not come is
asked of the worker, and told from the request's hash if no worker answers; a request the server no longer knows is sent
again if nothing of it was delivered.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from typing import assert_never

from tokenlane.config.values import FALLBACK_LANE
from tokenlane.routing.advice import no_lane
from tokenlane.routing.errors import DeadlineExceeded, ErrorReport, Interrupted, LlmError, PoolUnavailable, RequestLost
from tokenlane.routing.messages import Progress
from tokenlane.routing.policy import served_name
from tokenlane.routing.pool import Pool
from tokenlane.routing.replies import Checked, Standing

from .courier import Courier
from .exchange import LACKING_EVERY_S, UNCERTAIN_EVERY_S, Exchange, Question

__all__ = ["Watch", "reason"]

logger = logging.getLogger(__name__)

_PERIOD_S = 2.0
_BATCH = 128
_ENDED_PATIENCE_S = 3.0
_RUNNING_PATIENCE_S = 10.0
_BEAT_GRACE_S = 1.0
_DESERTED_PATIENCE_S = 10.0  # a pool may be starting
_AGE = re.compile(r" \(last seen \d+ s ago\)")


def reason(waiting: str) -> str:
    """Why a request waits, without for how long lanes have been away: that is another word every second."""
    return _AGE.sub("", waiting)


class Watch:
    """The beat of one client."""

    def __init__(self, pool: Pool, courier: Courier, client: str) -> None:
        self._pool = pool
        self._courier = courier
        self._client = client
        self._away = False
        self._away_lanes = ""
        self._pulls: Mapping[str, Mapping[str, Progress]] = {}
        self._deserted_since: float | None = None

    async def run(self) -> None:
        """Beat for ever."""
        while True:
            silent = self._silent()
            batches = [silent[i : i + _BATCH] for i in range(0, len(silent), _BATCH)] or [[]]
            for batch in batches:
                try:
                    await self.beat(batch)
                except LlmError as error:
                    self._note_away(error)
                await asyncio.sleep(_PERIOD_S / len(batches))

    async def beat(self, exchanges: Sequence[Exchange] = ()) -> None:
        """Beat once, and see to these exchanges.

        Raises:
            PoolUnavailable: the server does not answer.
        """
        checked = await self._pool.check(self._client, [exchange.id for exchange in exchanges])
        self._note_back(checked)
        for exchange, standing in zip(exchanges, checked.standings, strict=True):
            if not exchange.delivery.ended:
                try:
                    await self._judge(exchange, standing)
                except LlmError:
                    raise
                except Exception as error:  # the other streams are judged all the same
                    self._pool.internal_errors.note("watch of a stream", error)
                exchange.changed.set()

    def _silent(self) -> list[Exchange]:
        since = asyncio.get_running_loop().time() - _PERIOD_S
        return [one for one in self._courier if one.accepted and one.heard_at <= since]

    def _note_away(self, error: LlmError) -> None:
        if not self._away:
            logger.warning("the pool is away, streams wait until their deadlines: %s", error)
        self._away = True
        for exchange in self._courier:
            if exchange.waiting is not None:
                exchange.waiting = str(error)

    def _note_back(self, checked: Checked) -> None:
        if self._away:
            logger.info("the pool is back")
        self._away = False
        away = [(name, ms) for name, ms in checked.away if name != FALLBACK_LANE]
        self._away_lanes = ", ".join(f"{name!r} (last seen {ms / 1000:.0f} s ago)" for name, ms in away)
        self._pulls = checked.pulls
        serving = checked.routers > 0 and checked.lanes > 0
        if serving:
            self._courier.idle_reason = None
        elif checked.away:
            self._courier.idle_reason = f"no worker is connected to this pool; waiting for lane {self._away_lanes}"
        else:
            self._courier.idle_reason = "no worker is connected to this pool: start one with `tokenlane worker`"
        if checked.routers or checked.lanes or checked.away:
            self._deserted_since = None
        elif self._deserted_since is None:
            self._deserted_since = asyncio.get_running_loop().time()

    async def _judge(self, exchange: Exchange, standing: Standing) -> None:
        if standing.state != "missing":
            exchange.missing_since = None
            await self._own(exchange, standing.owner)
        match standing.state:
            case "missing":
                await self._missing(exchange)
            case "waiting" | "delayed" | "dispatched":
                why = _pull(exchange, self._pulls) or _why(standing, exchange.role, self._away_lanes)
                exchange.waiting = self._courier.idle_reason or why
                if self._deserted():
                    self._give_up(exchange, no_lane())
            case "running":
                exchange.waiting = None
                self._running(exchange, standing)
            case "completed" | "failed" | "cancelled" | "expired":
                exchange.waiting = None
                self._ended(exchange, standing)
            case _:
                assert_never(standing.state)

    def _deserted(self) -> bool:
        """Whether no worker is coming: nobody has been there for a while, and nobody was within the hour.

        Where a router lives, it is the one to say so.
        """
        since = self._deserted_since
        return since is not None and asyncio.get_running_loop().time() - since >= _DESERTED_PATIENCE_S

    async def _own(self, exchange: Exchange, owner: str) -> None:
        if not exchange.owned or owner == self._client:
            return
        if owner:
            exchange.owned = False  # another client has attached, and pub/sub lost the news
        elif exchange.copy is None:
            await self._pool.attach(self._client, exchange.id)

    async def _missing(self, exchange: Exchange) -> None:
        now = asyncio.get_running_loop().time()
        exchange.ask(exchange.delivery.worker, exchange.delivery.attempt, UNCERTAIN_EVERY_S)
        if exchange.missing_since is None:
            exchange.missing_since = now
            return
        # A worker that runs it writes it anew with its next beat.
        policy = await self._pool.policy()
        if now - exchange.missing_since <= policy.lease_ms / 3000 + _BEAT_GRACE_S:
            return
        exchange.missing_since = None
        if exchange.copy is None or exchange.delivery.position > 0:
            self._give_up(exchange, RequestLost())
            return
        envelope, payload = exchange.copy
        left_ms = max(1, int(1000 * (exchange.deadline - now)))
        envelope = envelope.model_copy(update={"time_to_live_ms": left_ms})
        try:
            again = await self._pool.submit(envelope, payload, floor=exchange.delivery.attempt)
        except PoolUnavailable:
            raise
        except LlmError as error:
            self._give_up(exchange, error)
            return
        if again.id != exchange.id:
            lost = (
                "the pool lost this request, and has another with its idempotency key now: ask again to join that one"
            )
            self._give_up(exchange, RequestLost(lost))
            return
        exchange.owned = True

    def _running(self, exchange: Exchange, standing: Standing) -> None:
        if exchange.uncertain:
            exchange.ask(standing.worker, standing.attempt, UNCERTAIN_EVERY_S)
        if exchange.delivery.lacking and _unanswered(exchange.question, _RUNNING_PATIENCE_S):
            self._give_up(
                exchange, Interrupted("a part of the answer was lost and its worker does not have it: ask again")
            )

    def _ended(self, exchange: Exchange, standing: Standing) -> None:
        if not standing.worker or _unanswered(exchange.question, _ENDED_PATIENCE_S):
            self._told(exchange, standing)
        else:
            exchange.ask(standing.worker, standing.attempt, LACKING_EVERY_S)

    def _told(self, exchange: Exchange, standing: Standing) -> None:
        delivery = exchange.delivery
        delivery.settled = True
        if standing.state == "completed" and standing.end == delivery.position:
            delivery.complete()
            self._courier.abandon(exchange)
            return
        match standing.state:
            case "completed":
                lost = Interrupted("the end of the answer was lost and no worker has it any more: ask again")
                error: LlmError = lost if standing.end is None else delivery.beyond(standing.end) or lost
            case "cancelled":
                error = LlmError.from_report(ErrorReport(code="cancelled"))
            case "expired":
                error = DeadlineExceeded()
            case _:
                error = LlmError.from_report(ErrorReport(code=standing.code))
        self._give_up(exchange, error)

    def _give_up(self, exchange: Exchange, error: LlmError) -> None:
        exchange.delivery.fail(error)
        self._courier.abandon(exchange)


def _unanswered(question: Question | None, patience_s: float) -> bool:
    if question is None or question.since is None:
        return False
    return asyncio.get_running_loop().time() - question.since >= patience_s


def _pull(exchange: Exchange, pulls: Mapping[str, Mapping[str, Progress]]) -> str | None:
    """The pull that the request may wait for: of its model, or of any if it names none."""
    asked = exchange.copy[0].needs.model if exchange.copy is not None else None
    for lane, models in pulls.items():
        for model, progress in models.items():
            if asked is None or served_name(asked, (model,)) is not None:
                return f"lane {lane!r} pulls {model!r}: {progress}"
    return None


def _why(standing: Standing, role: str, away: str) -> str:
    if standing.state == "dispatched":
        return f"given to a lane that serves role {role!r}, which is about to start it"
    if standing.state == "delayed":
        return "an attempt failed; it is tried again soon"
    return f"waiting in the queue of role {role!r}" + (f"; lanes that are away: {away}" if away else "")
