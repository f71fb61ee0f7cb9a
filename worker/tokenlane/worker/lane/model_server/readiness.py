"""Checks whether a lane's model server works, and closes the lane to new work while it does not.

The model server is checked when the worker starts, after a failure that may be its fault, every few seconds while
nothing runs, and more often while it is not up. Before it counts as up again, the lane lists its models again.

A model server that is up may still fail its requests, or refuse them for a while. The lane's circuit breaker, or the
pause that the server asked for, then closes the lane. When the server goes down, both are reset: from then on, the
checks decide.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from tokenlane.routing.contract.errors import Interrupted, LlmError, ModelNotFound, ProviderDown, Timeout, Unauthorized
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.wire import Kind
from tokenlane.routing.contract.worker_report import BreakerState
from tokenlane.routing.decide.lanes.state import UP, LaneState, ServerCondition
from tokenlane.worker.lane.attempt_key import AttemptKey
from tokenlane.worker.lane.availability import Availability
from tokenlane.worker.lane.heartbeat import Heartbeat
from tokenlane.worker.lane.running_attempts import Run, Runs
from tokenlane.worker.lane.timings import TIMINGS, Timings
from tokenlane.worker.providers import LlmProvider, ReportsHealth

from .circuit_breaker import LONG_ANSWER_S, CircuitBreaker, Outcome, is_servers_fault
from .requested_pause import RequestedPause

logger = logging.getLogger(__name__)

_MIN_PAUSE_S, _MAX_PAUSE_S = 0.1, 2.0
_PAUSE_SHARE = 0.25
"""The pause between two checks of an unavailable model server, as a share of the time since it became unavailable."""
_MAX_REASON_CHARACTERS = 300


def condition_after(error: LlmError) -> ServerCondition:
    """The condition of a model server whose check failed with this error.

    Only an error that a working server cannot cause makes it loading or down. A server that rejects the API key or has
    no health endpoint counts as up, since it may still answer chats.
    """
    state = error.server_condition
    if state is None and (isinstance(error, Timeout) or (isinstance(error, ProviderDown) and error.retryable)):
        state = "down"
    return UP if state is None else ServerCondition(LaneState(state), error.message[:_MAX_REASON_CHARACTERS])


async def check_condition(provider: LlmProvider) -> ServerCondition:
    """Check the model server: with its health check or, if the provider has none, by listing its models."""
    try:
        if isinstance(provider, ReportsHealth):
            await provider.healthy()
        else:
            await provider.models()
    except LlmError as error:
        return condition_after(error)
    except Exception as error:  # a third party's provider
        logger.error("a bug in the provider: its health check raised %s", type(error).__name__)
    return UP


class Readiness:
    """Watches the condition of one model server, its circuit breaker and the pause that it asked for, and has the
    heartbeat announce each change.

    Args:
        describe: lists the lane's models again, and raises `LlmError` if that fails.
    """

    def __init__(
        self,
        provider: LlmProvider,
        availability: Availability,
        heartbeat: Heartbeat,
        runs: Runs,
        describe: Callable[[], Awaitable[None]],
        timings: Timings = TIMINGS,
    ) -> None:
        self._provider, self._availability, self._heartbeat = provider, availability, heartbeat
        self._runs, self._describe = runs, describe
        self._clock = asyncio.get_running_loop().time
        self._check_s = timings.check_hosted_s if provider.endpoint.startswith("https://") else timings.check_s
        self._describe_s = timings.describe_s
        self._server = availability.condition
        self._breaker = CircuitBreaker(timings.cooldown_s)
        self._pause = RequestedPause(timings.cooldown_s)
        self._logged: BreakerState = "closed"
        self._check_lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._check_requested = self._loading_logged = self._warned = False
        self._confirmed_at = self._described_at = self._clock()
        self._unavailable_since = None if self._is_up else self._clock()

    async def run(self) -> None:
        """Check the model server until cancelled."""
        while True:
            self._wake.clear()
            now = self._clock()
            trial = self._breaker.trial
            if trial is not None and self._trial_counts_at(now) <= now:
                self._breaker.record_long_answer(trial, now)
            self._open_or_close(now)
            due_at = self._confirmed_at + self._until_check_s()
            if self._is_up:  # a server that is not up cannot list its models: they are listed when it is up again
                due_at = min(due_at, self._described_at + self._describe_s)
            if self._check_requested or now >= due_at:
                await self._check_when_due()
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(due_at, self._may_open_at(now))):
                    await self._wake.wait()

    @property
    def breaker_state(self) -> BreakerState:
        """The state of the lane's circuit breaker, for the worker's report."""
        return self._breaker.state(self._clock())

    def begin(self, attempt: AttemptKey, kind: Kind) -> None:
        """Record that an attempt starts. If it is the trial of the circuit breaker, no other starts from now on.

        This is not announced at once, since another worker of the lane may have claimed the request. The trial takes
        the only slot that the lane has announced for its kind; until the next beat, work of another kind is given back.
        """
        if not KINDS[kind].is_long:
            now = self._clock()
            self._breaker.begin(attempt, now)
            self._update_availability(now)
            if attempt == self._breaker.trial:
                self._wake.set()  # `run` waits for the trial's answer to be long

    def end(self, attempt: AttemptKey) -> None:
        """Record that an attempt has ended, however it did."""
        self._breaker.end(attempt)
        self._open_or_close(self._clock())

    def record_answer(self, run: Run) -> None:
        """Record that the model server answered a request, which is better evidence than a check."""
        if self._is_up:
            self._confirmed_at = now = self._clock()
            self._unavailable_since, self._loading_logged = None, False
            self._pause.record_answer()
            self._record_outcome(run, now)

    def record_error(self, run: Run, error: Exception) -> None:
        """Record that a request failed at the model server. If the server asked for a pause, the lane pauses from now
        on."""
        if not self._is_up:
            return
        now = self._clock()
        known = error if isinstance(error, LlmError) else ProviderDown()
        paused = self._pause.lasts(now)
        if self._pause.record_error(known, run.left_ms / 1000, now):
            self._close_for_a_while(now)
            if not paused:
                logger.info("lane %r accepts no new work: %s", self._lane, self._availability.condition.why)
        if is_servers_fault(error):
            self._record_outcome(run, now, known.code)

    async def record_failure(self, error: LlmError) -> bool:
        """Record that an attempt failed before its first token. Return whether its request may have reached the model.

        If the model server does not work or asked for a pause, the pool knows on return that the lane accepts no new
        work. A request counts as having reached the model if the server died during the attempt, since the request may
        have killed it.
        """
        if self._pause.lasts(self._clock()):
            await self._heartbeat.announce()
        if error.server_condition == "loading":  # even if its health check succeeds
            async with self._check_lock:
                self._loading_logged = True
                await self._set_condition(condition_after(error))
            return False
        if not (error.retryable and isinstance(error, ProviderDown | Timeout | Interrupted)):
            return True
        failed_at = self._clock()
        async with self._check_lock:
            if self._is_up and self._confirmed_at < failed_at:
                await self._check()
            return error.server_condition is None or self._is_up

    def check_soon(self) -> None:
        """Check the model server now, because an attempt broke off in the middle of its answer."""
        self._check_requested = True
        self._wake.set()

    @property
    def _lane(self) -> str:
        return self._availability.announcement.lane

    @property
    def _is_up(self) -> bool:
        """Whether the model server is up, whether or not its circuit breaker lets requests start."""
        return self._server == UP

    async def _check_when_due(self) -> None:
        requested, self._check_requested = self._check_requested, False
        async with self._check_lock:
            describes = self._clock() - self._described_at >= self._describe_s
            if self._runs and self._is_up and (describes or not requested):
                # Running requests show that the server works, and a busy server may fail a check.
                self._confirmed_at = self._clock()
                if describes:
                    await self._set_condition(await self._describe_lane())
            else:
                await self._check(describes=describes)

    def _until_check_s(self) -> float:
        if self._is_up:
            return self._check_s
        unavailable_s = self._clock() - (self._unavailable_since or 0.0)
        return min(max(_MIN_PAUSE_S, _PAUSE_SHARE * unavailable_s), _MAX_PAUSE_S)

    async def _check(self, *, describes: bool = False) -> None:
        self._confirmed_at = self._clock()
        condition = await check_condition(self._provider)
        if condition == UP and (describes or not self._is_up):
            condition = await self._describe_lane()
        if condition == UP and self._is_up:
            self._unavailable_since = None
        await self._set_condition(condition)

    async def _describe_lane(self) -> ServerCondition:
        """List the lane's models again, and return the condition of the model server that the result implies."""
        self._described_at = self._clock()
        lane = self._availability.announcement
        try:
            await self._describe()
        except LlmError as error:
            serves_nothing = isinstance(error, ModelNotFound | Unauthorized)
            if not serves_nothing:
                logger.warning("the models of lane %r cannot be listed: %s", lane.lane, error)
            if serves_nothing or not (self._is_up or lane.models):
                return ServerCondition(LaneState.DOWN, error.message[:_MAX_REASON_CHARACTERS])
            return UP if self._is_up else condition_after(error)
        return UP

    async def _set_condition(self, condition: ServerCondition) -> None:
        """Announce the condition that a check has found, unless it is known."""
        if condition == self._server:
            return
        self._confirmed_at = self._clock()
        self._wake.set()
        name = self._lane
        if condition == UP:
            level, self._warned = logging.WARNING if self._warned else logging.INFO, False
            logger.log(level, "lane %r accepts work: its model server is up", name)
        else:
            # A server may answer "loading" to each attempt, between successful checks: only the first is a warning.
            level = logging.INFO if self._loading_logged and self._unavailable_since is not None else logging.WARNING
            self._warned |= level == logging.WARNING
            if self._unavailable_since is None:
                self._unavailable_since = self._clock()
            logger.log(
                level, "lane %r accepts no new work: its model server is %s: %s", name, condition.state, condition.why
            )
            self._breaker.reset()
            self._pause.reset()
            self._logged = "closed"
        self._server = condition
        self._update_availability(self._clock())
        await self._heartbeat.beat()

    def _record_outcome(self, run: Run, now: float, code: str = "") -> None:
        self._breaker.record(Outcome(run.key, run.claim.model, run.started_at, now, code))
        if self._breaker.state(now) == "open":
            self._close_for_a_while(now)
        else:
            self._open_or_close(now)

    def _trial_counts_at(self, now: float) -> float:
        """When the breaker's trial counts as an answer before its end, or the earliest time if its answer has not
        begun; infinity if no trial runs."""
        if not self._breaker.is_trying(now):
            return math.inf
        begun = (run.outlet.first_put_at for run in self._runs if run.key == self._breaker.trial)
        first_at = next(begun, None)
        return (now if first_at is None else first_at) + LONG_ANSWER_S

    def _may_open_at(self, now: float) -> float:
        """When the open breaker lets a request start, its trial counts as an answer, or the pause ends; infinity if
        none of these lies ahead."""
        ends = (self._breaker.retry_at, self._trial_counts_at(now), self._pause.ends_at)
        return min((at for at in ends if at > now), default=math.inf)

    def _close_for_a_while(self, now: float) -> None:
        self._open_or_close(now)
        self._wake.set()  # `run` waits for the end of the cooldown or the pause

    def _open_or_close(self, now: float) -> None:
        """Announce soon what the breaker and the pause allow now, if that has changed."""
        if self._update_availability(now):
            self._heartbeat.announce_soon()

    def _update_availability(self, now: float) -> bool:
        """Set what the model server's condition, the breaker and the pause allow. Return whether that has changed."""
        breaker, condition, most_at_once = self._breaker, self._server, None
        if condition == UP and breaker.state(now) != "closed":
            state = LaneState.DOWN
            if breaker.lets_start(now) and not self._pause.lasts(now):
                state, most_at_once = LaneState.UP, len(self._runs) + 1
            condition = ServerCondition(state, f"{breaker.failures}; {self._what_comes_next(now)}")
        elif condition == UP and self._pause.lasts(now):
            condition = ServerCondition(LaneState.PAUSED, f"{self._pause.why}; {self._what_comes_next(now)}")
        availability = self._availability
        if (condition, most_at_once) == (availability.condition, availability.most_at_once):
            return False
        self._log_breaker(condition, breaker.state(now))
        availability.condition, availability.most_at_once = condition, most_at_once
        return True

    def _what_comes_next(self, now: float) -> str:
        breaker = self._breaker
        if breaker.is_trying(now):
            return "one more is being tried"
        if breaker.lets_start(now) and not self._pause.lasts(now):
            return "it gets one request at a time, until two in a row succeed"
        ends = (self._pause.ends_at, breaker.retry_at if breaker.state(now) == "open" else -math.inf)
        at = datetime.now(UTC) + timedelta(seconds=max(ends) - now)
        return f"the next request is tried at {at:%H:%M:%S} UTC"

    def _log_breaker(self, condition: ServerCondition, state: BreakerState) -> None:
        """Log a change of the breaker: when it opens at first and when it closes as warnings."""
        if state == self._logged:
            return
        level = logging.WARNING if "closed" in (state, self._logged) else logging.INFO
        why = condition.why or "two requests in a row succeeded"
        logger.log(level, "the circuit breaker of lane %r is %s: %s", self._lane, state, why)
        self._logged = state
