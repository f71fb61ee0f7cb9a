"""What an agent has lanes do with their models: commands that go through the queue, to one lane each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Literal

from tokenlane.routing.contract.errors import BadRequest, LlmError
from tokenlane.routing.contract.requests import ModelAction
from tokenlane.routing.contract.results import ModelInfo, ModelReport, Progress
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.decide.no_candidate import no_lane

from .compose import compose_command
from .link.link import Composed, Link, opened

logger = logging.getLogger(__name__)

_LIST_TIME_TO_LIVE_MS = 10_000
"""Who looks at a list waits for it: a lane that does not answer by then is told of as it announced itself."""
_LOOK_EVERY_S = 1.0
"""At why it waits, which is told after that time, and changes without a message."""


class Models:
    """The models of a pool, for one client."""

    def __init__(self, link: Link, agent: str) -> None:
        self._link = link
        self._agent = agent

    async def listed(self, lane: str | None) -> list[ModelInfo]:
        """The models of this lane, or of all there are. What a lane announces is told where it is busy with another
        command, and, if several are asked, where it fails: that is logged."""
        if lane is not None:
            return list(await self._listed(await self._lane(lane)))
        lists = await asyncio.gather(*(self._told_of(there) for there in await self._open_lanes(or_unready=True)))
        return [info for found in lists for info in found]

    async def verify(self, model: str, lane: str | None) -> ModelInfo:
        """The model as it is on the lane, its digest among it."""
        (found,) = (await self.do("verify", model, lane)).models
        return found

    async def do(self, action: Literal["verify", "load", "unload"], model: str, lane: str | None) -> ModelReport:
        """Have it done; the model as it is then."""
        return await self._report(await self._asked(action, model, lane))

    async def follow(self, action: ModelAction, model: str, lane: str | None) -> AsyncGenerator[Progress, None]:
        """Have it done, and tell how far it is, the newest where several came; why it waits, before it is begun."""
        asked = await self._asked(action, model, lane)
        told: Progress | None = None
        async with opened(self._link, lambda: self._composed(asked)) as request:
            ended = False
            while not ended:
                waits = False
                try:
                    async with asyncio.timeout(_LOOK_EVERY_S):
                        if not request.ended:  # while the caller had the last word of it
                            await request.change()
                except TimeoutError:
                    waits = request.waiting is not None
                ended = request.ended
                progress = request.progress
                if waits and progress is None:
                    progress = Progress(step=request.waiting or "waiting")
                if progress not in (None, told):
                    told = progress
                    yield progress
            await request.result()

    async def _told_of(self, lane: LaneView) -> tuple[ModelInfo, ...]:
        """Its models, whatever becomes of asking it."""
        try:
            return await self._listed(lane)
        except LlmError as error:
            logger.warning("lane %r does not list its models, so what it announced is told: %s", lane.name, error)
            return _announced(lane)

    async def _listed(self, lane: LaneView) -> tuple[ModelInfo, ...]:
        if lane.state.is_unready:
            raise no_lane((lane,))
        if lane.credit_for("command") == 0:
            return _announced(lane)
        return (
            await self._report({"action": "list", "lane": lane.name, "time_to_live_ms": _LIST_TIME_TO_LIVE_MS})
        ).models

    async def _report(self, asked: Mapping[str, object]) -> ModelReport:
        async with opened(self._link, lambda: self._composed(asked)) as request:
            result = await request.result()
        assert isinstance(result, ModelReport)
        return result

    def _composed(self, asked: Mapping[str, object]) -> Composed:
        return compose_command(asked, agent=self._agent, client=self._link.client)

    async def _asked(self, action: ModelAction, model: str, lane: str | None) -> dict[str, object]:
        return {"action": action, "model": model, "lane": (await self._lane(lane)).name}

    async def _lane(self, name: str | None) -> LaneView:
        """The lane of this name, or the only one that is open.

        Raises:
            BadRequest: several are open, and none is named; or none has this name.
            ProviderDown: there is none.
        """
        if name is not None:
            lanes = await self._link.lanes()
            for lane in lanes:
                if lane.name == name:
                    return lane
            there = sorted(lane.name for lane in lanes if not lane.state.is_away)
            if not there:
                raise no_lane()
            raise BadRequest(f"no lane is called {name!r}; connected lanes: {', '.join(there)}")
        live = await self._open_lanes()
        if len(live) > 1:
            raise BadRequest(f"there are the lanes {', '.join(lane.name for lane in live)}: say which one")
        return live[0]

    async def _open_lanes(self, *, or_unready: bool = False) -> list[LaneView]:
        """Those that take work.

        Args:
            or_unready: and those whose back end cannot work now.
        """
        known = await self._link.lanes()
        lanes = [lane for lane in known if lane.state.takes_work or (or_unready and lane.state.is_unready)]
        if not lanes:
            raise no_lane(known)
        return sorted(lanes, key=lambda lane: lane.name)


def _announced(lane: LaneView) -> tuple[ModelInfo, ...]:
    """The models a lane says it has, by name and ability."""
    return tuple(
        ModelInfo(name=model, provider=lane.provider, lane=lane.name, capabilities=lane.offer.abilities.get(model, ()))
        for model in lane.models
    )
