"""Whether a lane's back end can work. That its worker beats does not say so; the lane takes new work only while it can.

The back end is asked when the worker starts, when an attempt failed in a way that may be the back end's, now and then
while nothing runs, and all the time while it is not up. Before it counts as up again the lane says anew what it serves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from tokenlane.routing.contract.errors import Interrupted, LlmError, ModelNotFound, ProviderDown, Timeout, Unauthorized
from tokenlane.routing.decide.lanes.state import UP, Condition, LaneState
from tokenlane.worker.providers import LlmProvider, TellsHealth

from .availability import Availability
from .heartbeat import Lease
from .running_attempts import Runs

logger = logging.getLogger(__name__)

_LEAST_PAUSE_S, _MOST_PAUSE_S = 0.1, 2.0
_SHARE = 0.25
"""Of the time that a back end has been away: so much later at most it is seen to be back."""
_MOST_WORDS = 300


def condition_said_by(error: LlmError) -> Condition:
    """What a failure to ask the back end how it is says of it.

    Only an answer that cannot come from a server at work makes it loading or down. One that refuses us, or that has no
    such page, is up: it may take chats all the same.
    """
    state = error.back_end
    if state is None and (isinstance(error, Timeout) or (isinstance(error, ProviderDown) and error.retryable)):
        state = "down"
    return UP if state is None else Condition(LaneState(state), error.message[:_MOST_WORDS])


async def condition_of(provider: LlmProvider) -> Condition:
    """How the back end is, by its page of health, or by its list of models where the provider knows no such page."""
    try:
        if isinstance(provider, TellsHealth):
            await provider.healthy()
        else:
            await provider.models()
    except LlmError as error:
        return condition_said_by(error)
    except Exception as error:  # of another's provider
        logger.error("a provider failed in a way it should not, asked for its health: %s", type(error).__name__)
    return UP


@dataclass(frozen=True)
class Periods:
    """How often a back end is looked to, in seconds.

    Args:
        ask_s: an idle one is asked how it is.
        ask_hosted_s: the same at an endpoint with https: who offers a model to the whole world may count what it is
            asked.
        look_s: the lane says anew what it serves.
    """

    ask_s: float = 5.0
    ask_hosted_s: float = 30.0
    look_s: float = 30.0


PERIODS = Periods()


class Readiness:
    """Watches one back end, and has the lane say how it is.

    Args:
        look: has the lane say anew which models it has; raises `LlmError` where it cannot tell.
    """

    def __init__(
        self,
        provider: LlmProvider,
        availability: Availability,
        lease: Lease,
        runs: Runs,
        look: Callable[[], Awaitable[None]],
        periods: Periods = PERIODS,
    ) -> None:
        self._provider = provider
        self._availability = availability
        self._lease = lease
        self._runs = runs
        self._look = look
        self._clock = asyncio.get_running_loop().time
        self._ask_every_s = periods.ask_hosted_s if provider.endpoint.startswith("https://") else periods.ask_s
        self._look_every_s = periods.look_s
        self._one_at_a_time = asyncio.Lock()
        self._hurry = asyncio.Event()
        self._suspicious = self._by_its_word = False
        self._heard_at = self._looked_at = self._clock()
        self._away_since = None if self._is_up else self._clock()

    async def run(self) -> None:
        """Ask for as long as the lane is served."""
        while True:
            self._hurry.clear()
            due_at = min(self._heard_at + self._pause_s(), self._looked_at + self._look_every_s)
            if self._suspicious or self._clock() >= due_at:
                await self._turn()
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due_at):
                    await self._hurry.wait()

    def answered(self) -> None:
        """Hear that the back end has answered a request: nothing says better that it can work."""
        if self._is_up:
            self._heard_at = self._clock()
            self._away_since, self._by_its_word = None, False

    async def failed(self, error: LlmError) -> bool:
        """Hear how an attempt failed before its first token; True if it was none, for it never reached the model.

        Where the back end cannot work the lane takes no new work by then, and routers know it. An attempt that reached
        the model and died with its server is one: the request may be what kills it.
        """
        if error.back_end == "loading":  # it says so itself, whatever its page of health says
            async with self._one_at_a_time:
                self._by_its_word = True
                await self._become(condition_said_by(error))
            return True
        if not (error.retryable and isinstance(error, ProviderDown | Timeout | Interrupted)):
            return False
        failed_at = self._clock()
        async with self._one_at_a_time:
            if self._is_up and self._heard_at < failed_at:
                await self._ask()
            return error.back_end is not None and not self._is_up

    def suspect(self) -> None:
        """Have the back end asked soon: an attempt broke off, which is over and waits for nothing."""
        self._suspicious = True
        self._hurry.set()

    @property
    def _is_up(self) -> bool:
        return self._availability.condition == UP

    async def _turn(self) -> None:
        suspicious, self._suspicious = self._suspicious, False
        async with self._one_at_a_time:
            looking = self._clock() - self._looked_at >= self._look_every_s
            if self._runs and self._is_up and (looking or not suspicious):
                self._heard_at = self._clock()  # by its requests; a busy server may be slow to say that it is well
                if looking:
                    await self._become(await self._looked())
            else:
                await self._ask(looking=looking)

    def _pause_s(self) -> float:
        if self._is_up:
            return self._ask_every_s
        away_s = self._clock() - (self._away_since or 0.0)
        return min(max(_LEAST_PAUSE_S, _SHARE * away_s), _MOST_PAUSE_S)

    async def _ask(self, *, looking: bool = False) -> None:
        self._heard_at = self._clock()
        condition = await condition_of(self._provider)
        if condition == UP and (looking or not self._is_up):
            condition = await self._looked()
        if condition == UP and self._is_up:
            self._away_since = None
        await self._become(condition)

    async def _looked(self) -> Condition:
        """Have the lane say what it serves; how the back end is by that."""
        self._looked_at = self._clock()
        lane = self._availability.announcement
        try:
            await self._look()
        except LlmError as error:
            if isinstance(error, ModelNotFound | Unauthorized):  # none of our requests can be answered
                return Condition(LaneState.DOWN, error.message[:_MOST_WORDS])
            logger.warning("lane %r cannot say which models it has: %s", lane.lane, error)
            if not self._is_up and not lane.models:
                return Condition(LaneState.DOWN, error.message[:_MOST_WORDS])
            return UP if self._is_up else condition_said_by(error)
        return UP

    async def _become(self, condition: Condition) -> None:
        if condition == self._availability.condition:
            return
        self._heard_at = self._clock()
        self._hurry.set()
        name = self._availability.announcement.lane
        # One that is tried again and again since it says that it loads is no news each time.
        level = logging.INFO if self._by_its_word and self._away_since is not None else logging.WARNING
        if condition == UP:
            logger.log(level, "lane %r takes work: its back end is up", name)
        else:
            if self._away_since is None:
                self._away_since = self._clock()
            logger.log(level, "lane %r takes no new work: its back end is %s: %s", name, condition.state, condition.why)
        self._availability.find(condition)
        await self._lease.beat()
