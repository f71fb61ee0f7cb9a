"""Lists, pulls, loads and unloads a pool's models: each is a command that goes through the queue to one lane."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Literal

from tokenlane.routing.contract.errors import BadRequest, LlmError
from tokenlane.routing.contract.requests import ModelAction
from tokenlane.routing.contract.results import ModelInfo, ModelReport, Progress
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.decide.no_candidate import no_lane

from .compose import compose_command
from .link.link import Link, opened
from .link.open_request import OpenRequest

logger = logging.getLogger(__name__)

_LIST_TIME_TO_LIVE_MS = 10_000
"""People wait for a list: after this time a lane's own announcement has to do."""
_LOOK_EVERY_S = 1.0
"""How often to look at why a command waits: a change of the reason comes without a message."""


class Models:
    """The models of a pool, for one client."""

    def __init__(self, link: Link, agent: str) -> None:
        self._link = link
        self._agent = agent

    async def listed(self, lane: str | None) -> list[ModelInfo]:
        """The models of this lane, or of all open lanes. A lane's announcement stands in for its list if the lane is
        busy with another command, or, where several are listed, if listing fails; the failure is logged."""
        if lane is not None:
            return list(await self._listed(await self._lane(lane)))
        lanes = await self._open_lanes(or_unready=True)
        return [model for models in await asyncio.gather(*map(self._listed_or_announced, lanes)) for model in models]

    async def verify(self, model: str, lane: str | None) -> ModelInfo:
        """The model as it is on the lane, with its digest."""
        (verified,) = (await self.do("verify", model, lane)).models
        return verified

    async def do(self, action: Literal["verify", "load", "unload"], model: str, lane: str | None) -> ModelReport:
        """Have a lane do this; returns its report on the model."""
        return await self._report(await self._command(action, model, lane))

    async def follow(self, action: ModelAction, model: str, lane: str | None) -> AsyncGenerator[Progress, None]:
        """Have a lane do this and yield its newest progress, or, before it starts, why it waits."""
        shown: Progress | None = None
        async with self._opened(await self._command(action, model, lane)) as request:
            ended = False
            while not ended:
                waiting = None
                try:
                    async with asyncio.timeout(_LOOK_EVERY_S):
                        await request.change()
                except TimeoutError:
                    waiting = request.waiting
                ended = request.ended
                progress = request.progress or (Progress(step=waiting or "waiting") if waiting is not None else None)
                if progress not in (None, shown):
                    shown = progress
                    yield progress
            await request.result()

    async def _listed_or_announced(self, lane: LaneView) -> tuple[ModelInfo, ...]:
        try:
            return await self._listed(lane)
        except LlmError as error:
            logger.warning("lane %r does not list its models, its announcement stands in: %s", lane.name, error)
            return _announced(lane)

    async def _listed(self, lane: LaneView) -> tuple[ModelInfo, ...]:
        if lane.state.is_unready:
            raise no_lane(self._link.pool, (lane,))
        if lane.credit_for("command") == 0:
            return _announced(lane)
        command = {"action": "list", "lane": lane.name, "time_to_live_ms": _LIST_TIME_TO_LIVE_MS}
        return (await self._report(command)).models

    async def _report(self, command: Mapping[str, object]) -> ModelReport:
        async with self._opened(command) as request:
            result = await request.result()
        assert isinstance(result, ModelReport)
        return result

    def _opened(self, command: Mapping[str, object]) -> AbstractAsyncContextManager[OpenRequest]:
        return opened(self._link, partial(compose_command, command, agent=self._agent, client=self._link.client))

    async def _command(self, action: ModelAction, model: str, lane: str | None) -> dict[str, object]:
        return {"action": action, "model": model, "lane": (await self._lane(lane)).name}

    async def _lane(self, name: str | None) -> LaneView:
        """The lane of this name, or the only open lane.

        Raises:
            BadRequest: no lane has this name; or none is named, and several are open.
            ProviderDown: no lane is open.
        """
        if name is None:
            lanes = await self._open_lanes()
            if len(lanes) > 1:
                raise BadRequest(f"several lanes are open: {_names(lanes)}: name one of them")
            return lanes[0]
        lanes = list(await self._link.lanes())
        for lane in lanes:
            if lane.name == name:
                return lane
        if not (connected := [lane for lane in lanes if not lane.state.is_away]):
            raise no_lane(self._link.pool)
        raise BadRequest(f"no lane is called {name!r}; connected lanes: {_names(connected)}")

    async def _open_lanes(self, *, or_unready: bool = False) -> list[LaneView]:
        """The lanes that take work.

        Args:
            or_unready: also lanes whose model server cannot work now.
        """
        known = await self._link.lanes()
        lanes = [lane for lane in known if lane.state.takes_work or (or_unready and lane.state.is_unready)]
        if not lanes:
            raise no_lane(self._link.pool, known)
        return sorted(lanes, key=lambda lane: lane.name)


def _names(lanes: list[LaneView]) -> str:
    return ", ".join(sorted(lane.name for lane in lanes))


def _announced(lane: LaneView) -> tuple[ModelInfo, ...]:
    """The models that a lane has announced, with their names and abilities."""
    return tuple(
        ModelInfo(name=model, provider=lane.provider, lane=lane.name, capabilities=lane.offer.abilities.get(model, ()))
        for model in lane.models
    )
