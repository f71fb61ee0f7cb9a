"""Whether a lane's back end can work. That its worker beats does not say so; the lane takes new work only while it can.

The back end is asked when the worker starts, when an attempt failed in a way that may be the back end's, now and then
while nothing runs, and all the time while it is not up. Before it counts as up again the lane says anew what it serves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from tokenlane.routing.contract.errors import Interrupted, LlmError, ModelNotFound, ProviderDown, Timeout, Unauthorized
from tokenlane.routing.decide.lanes.state import UP, Condition, LaneState
from tokenlane.worker.attempt.attempts import Runs
from tokenlane.worker.providers import LlmProvider, TellsHealth

from .heartbeat import Lease

__all__ = ["Readiness", "condition_of", "condition_said_by"]

logger = logging.getLogger(__name__)

_ASK_EVERY_S = 5.0
_LOOK_EVERY_S = 30.0
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


class Readiness:
    """Watches one back end, and has the lane's lease say how it is.

    Args:
        condition: how the back end was found at the start.
        look: has the lane say anew which models it has; raises `LlmError` where it cannot tell.
    """

    def __init__(
        self,
        provider: LlmProvider,
        lease: Lease,
        runs: Runs,
        condition: Condition,
        look: Callable[[], Awaitable[None]],
    ) -> None:
        self._provider = provider
        self._lease = lease
        self._runs = runs
        self._look = look
        self._clock = asyncio.get_running_loop().time
        # Who offers a model to the whole world may count what it is asked.
        self._ask_every_s = _LOOK_EVERY_S if provider.endpoint.startswith("https://") else _ASK_EVERY_S
        self._one_at_a_time = asyncio.Lock()
        self._hurry = asyncio.Event()
        self._suspicious = self._by_its_word = False
        self._is_up = asyncio.Event()
        self._asked_at = self._changed_at = self._good_at = self._looked_at = self._clock()
        self._away_since: float | None = None
        if condition == UP:
            self._is_up.set()
        else:
            self._away_since = self._clock()

    async def run(self) -> None:
        """Ask for as long as the lane is served."""
        while True:
            self._hurry.clear()
            due_at = max(self._asked_at, self._changed_at) + self._pause_s()
            if self._suspicious or self._clock() >= due_at:
                await self._turn()
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due_at):
                    await self._hurry.wait()

    async def up(self) -> None:
        """Wait until the back end can work."""
        await self._is_up.wait()

    def answered(self) -> None:
        """Hear that the back end has answered a request: nothing says better that it can work."""
        self._good_at = self._clock()
        if self._is_up.is_set():
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
            if self._is_up.is_set() and self._asked_at < failed_at:
                await self._ask()
            return error.back_end is not None and not self._is_up.is_set()

    def suspect(self) -> None:
        """Have the back end asked soon: an attempt broke off, which is over and waits for nothing."""
        self._suspicious = True
        self._hurry.set()

    async def _turn(self) -> None:
        suspicious, self._suspicious = self._suspicious, False
        async with self._one_at_a_time:
            now = self._clock()
            if now - self._looked_at >= _LOOK_EVERY_S and self._runs and self._is_up.is_set():
                self._asked_at = now  # by its requests; a busy server may be slow to say that it is well
                await self._become(await self._looked())
            elif now - self._looked_at >= _LOOK_EVERY_S:
                await self._ask(looking=True)
            elif suspicious or not self._is_up.is_set() or not (self._runs or now - self._good_at < self._ask_every_s):
                await self._ask()
            else:
                self._asked_at = now  # by its requests

    def _pause_s(self) -> float:
        if self._is_up.is_set():
            return self._ask_every_s
        away_s = self._clock() - (self._away_since or 0.0)
        return min(max(_LEAST_PAUSE_S, _SHARE * away_s), _MOST_PAUSE_S)

    async def _ask(self, *, looking: bool = False) -> None:
        self._asked_at = self._clock()
        condition = await condition_of(self._provider)
        if condition == UP and (looking or not self._is_up.is_set()):
            condition = await self._looked()
        if condition == UP and self._is_up.is_set():
            self._away_since = None
        await self._become(condition)

    async def _looked(self) -> Condition:
        """Have the lane say what it serves; how the back end is by that."""
        self._looked_at = self._clock()
        try:
            await self._look()
        except LlmError as error:
            if isinstance(error, ModelNotFound | Unauthorized):  # none of our requests can be answered
                return Condition(LaneState.DOWN, error.message[:_MOST_WORDS])
            logger.warning("lane %r cannot say which models it has: %s", self._lease.announcement.lane, error)
            if not self._is_up.is_set() and not self._lease.announcement.models:
                return Condition(LaneState.DOWN, error.message[:_MOST_WORDS])
            return UP if self._is_up.is_set() else condition_said_by(error)
        return UP

    async def _become(self, condition: Condition) -> None:
        if condition == self._lease.condition:
            return
        self._changed_at = self._clock()
        self._hurry.set()
        name = self._lease.announcement.lane
        # One that is tried again and again since it says that it loads is no news each time.
        level = logging.INFO if self._by_its_word and self._away_since is not None else logging.WARNING
        if condition == UP:
            self._is_up.set()
            logger.log(level, "lane %r takes work: its back end is up", name)
        else:
            self._is_up.clear()
            if self._away_since is None:
                self._away_since = self._clock()
            logger.log(level, "lane %r takes no new work: its back end is %s: %s", name, condition.state, condition.why)
        await self._lease.find(condition)
