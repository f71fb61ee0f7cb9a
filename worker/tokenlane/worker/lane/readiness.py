"""Checks whether a lane's model server works, and closes the lane to new work while it does not.

The model server is checked when the worker starts, after a failure that may be its fault, every few seconds while
nothing runs, and more often while it is not up. Before it counts as up again, the lane lists its models again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from tokenlane.routing.contract.errors import Interrupted, LlmError, ModelNotFound, ProviderDown, Timeout, Unauthorized
from tokenlane.routing.decide.lanes.state import UP, LaneState, ServerCondition
from tokenlane.worker.providers import LlmProvider, ReportsHealth

from .availability import Availability
from .heartbeat import Heartbeat
from .running_attempts import Runs
from .timings import TIMINGS, Timings

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
    """Watches the condition of one model server, and has the heartbeat announce each change.

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
        self._check_lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._check_requested = self._loading_logged = self._warned = False
        self._confirmed_at = self._described_at = self._clock()
        self._unavailable_since = None if self._is_up else self._clock()

    async def run(self) -> None:
        """Check the model server until cancelled."""
        while True:
            self._wake.clear()
            due_at = min(self._confirmed_at + self._pause_s(), self._described_at + self._describe_s)
            if self._check_requested or self._clock() >= due_at:
                await self._check_when_due()
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due_at):
                    await self._wake.wait()

    def record_answer(self) -> None:
        """Record that the model server answered a request, which is better evidence than a check."""
        if self._is_up:
            self._confirmed_at = self._clock()
            self._unavailable_since, self._loading_logged = None, False

    async def record_failure(self, error: LlmError) -> bool:
        """Record that an attempt failed before its first token. Return whether its request may have reached the model.

        If the model server does not work, the pool knows on return that the lane accepts no new work. A request counts
        as having reached the model if the server died during the attempt, since the request may have killed it.
        """
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
    def _is_up(self) -> bool:
        return self._availability.condition == UP

    async def _check_when_due(self) -> None:
        requested, self._check_requested = self._check_requested, False
        async with self._check_lock:
            describes = self._clock() - self._described_at >= self._describe_s
            if self._runs and self._is_up and (describes or not requested):
                self._confirmed_at = (
                    self._clock()
                )  # running requests show that it works, and a busy server may fail a check
                if describes:
                    await self._set_condition(await self._describe_lane())
            else:
                await self._check(describes=describes)

    def _pause_s(self) -> float:
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
        if condition == self._availability.condition:
            return
        self._confirmed_at = self._clock()
        self._wake.set()
        name = self._availability.announcement.lane
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
        self._availability.condition = condition
        await self._heartbeat.beat()
