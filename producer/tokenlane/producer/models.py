"""Lists, pulls, verifies, loads and unloads models. Each is a command to one lane, sent through the pool's queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Literal

from tokenlane.routing.contract.errors import BadRequest, LlmError, ProviderDown
from tokenlane.routing.contract.requests import ModelAction
from tokenlane.routing.contract.results import ModelInfo, ModelReport, Progress
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.decide.no_candidate import no_lane, unsupported_command

from .compose import compose_command
from .link.link import Link, open_request
from .link.open_request import OpenRequest

logger = logging.getLogger(__name__)

_LIST_TIME_TO_LIVE_MS = 10_000
_LIST_WITHIN_S = 2.0
"""How long a list of several lanes waits for each lane. A lane whose worker has died counts as up for a lease more."""
_CHECK_WAITING_EVERY_S = 1.0
"""How often to check why a command waits, since no message reports that the reason has changed."""


class Models:
    """Sends model commands to a pool's lanes for one agent."""

    def __init__(self, link: Link, agent: str) -> None:
        self._link = link
        self._agent = agent

    async def list_models(self, lane: str | None) -> list[ModelInfo]:
        """List the models of this lane, or of all open lanes.

        If a lane is busy with another command, its announced models are returned instead. In a list of all lanes the
        same happens, with a warning in the log, for a lane that fails or does not answer within two seconds.

        Raises:
            LlmError: the named lane fails or does not answer; or no lane is open.
        """
        if lane is not None:
            return list(await self._list_lane(await self._find_lane(lane)))
        lanes = await self._open_lanes(with_unready=True)
        return [model for models in await asyncio.gather(*map(self._list_or_announced, lanes)) for model in models]

    async def verify(self, model: str, lane: str | None) -> ModelInfo:
        """Return the model with the digest that the lane computes or looks up."""
        (verified,) = (await self.run("verify", model, lane)).models
        return verified

    async def run(self, action: Literal["verify", "load", "unload"], model: str, lane: str | None) -> ModelReport:
        """Send a lane this command; returns the lane's report."""
        return await self._send(await self._command(action, model, lane))

    async def follow(self, action: ModelAction, model: str, lane: str | None) -> AsyncGenerator[Progress, None]:
        """Send a lane this command; yields each new progress and, before the command starts, why it waits."""
        shown: Progress | None = None
        async with self._opened(await self._command(action, model, lane)) as request:
            ended = False
            while not ended:
                waiting = None
                try:
                    async with asyncio.timeout(_CHECK_WAITING_EVERY_S):
                        await request.wait_for_message()
                except TimeoutError:
                    waiting = request.waiting
                ended = request.ended
                progress = request.progress or (Progress(step=waiting or "waiting") if waiting is not None else None)
                if progress not in (None, shown):
                    shown = progress
                    yield progress
            await request.result()

    async def _list_or_announced(self, lane: LaneView) -> tuple[ModelInfo, ...]:
        try:
            async with asyncio.timeout(_LIST_WITHIN_S):
                return await self._list_lane(lane)
        except (LlmError, TimeoutError) as error:
            why = str(error) or f"no answer within {_LIST_WITHIN_S:g} s"
            logger.warning("lane %r could not list its models, using the announced models: %s", lane.name, why)
            return _announced(lane)

    async def _list_lane(self, lane: LaneView) -> tuple[ModelInfo, ...]:
        if lane.state.is_away:
            raise ProviderDown(
                f"No worker serves lane {lane.name!r} now: start one with `tokenlane worker`.", lane=lane.name
            )
        if lane.is_closed:
            raise no_lane(self._link.pool, (lane,))
        if lane.credit_for("command") == 0:
            return _announced(lane)
        command = {"action": "list", "lane": lane.name, "time_to_live_ms": _LIST_TIME_TO_LIVE_MS}
        return (await self._send(command)).models

    async def _send(self, command: Mapping[str, object]) -> ModelReport:
        async with self._opened(command) as request:
            result = await request.result()
        assert isinstance(result, ModelReport)
        return result

    def _opened(self, command: Mapping[str, object]) -> AbstractAsyncContextManager[OpenRequest]:
        return open_request(self._link, partial(compose_command, command, agent=self._agent, client=self._link.client))

    async def _command(self, action: ModelAction, model: str, lane: str | None) -> dict[str, object]:
        """The fields of a command to this lane, or to the only open lane.

        Raises:
            BadRequest: the lane cannot carry out the command; or see `_find_lane`.
        """
        known = await self._find_lane(lane)
        if (instead := known.offer.unsupported.get(action)) is not None:
            raise unsupported_command(action, known.name, known.provider, instead)
        return {"action": action, "model": model, "lane": known.name}

    async def _find_lane(self, name: str | None) -> LaneView:
        """The lane of this name, or the only open lane.

        Raises:
            BadRequest: no lane has this name; or `name` is None, and several lanes are open.
            ProviderDown: no lane is open.
        """
        if name is None:
            lanes = await self._open_lanes()
            if len(lanes) > 1:
                raise BadRequest(f"Several lanes are open, name one of them: {_names(lanes)}.")
            return lanes[0]
        known = await self._link.lanes()
        for lane in known:
            if lane.name == name:
                return lane
        if not (connected := [lane for lane in known if not lane.state.is_away]):
            raise no_lane(self._link.pool)
        raise BadRequest(f"There is no lane {name!r}; connected lanes: {_names(connected)}.")

    async def _open_lanes(self, *, with_unready: bool = False) -> Sequence[LaneView]:
        """The lanes that accept work, sorted by name.

        Args:
            with_unready: include lanes whose model servers cannot work now, and lanes that an operator drained.

        Raises:
            ProviderDown: there is no such lane.
        """
        known = await self._link.lanes()
        lanes = [lane for lane in known if lane.state.accepts_work or (with_unready and lane.is_closed)]
        if not lanes:
            raise no_lane(self._link.pool, known)
        return sorted(lanes, key=lambda lane: lane.name)


def _names(lanes: Sequence[LaneView]) -> str:
    return ", ".join(sorted(lane.name for lane in lanes))


def _announced(lane: LaneView) -> tuple[ModelInfo, ...]:
    """The models that the lane has announced: their names and capabilities, without digests and sizes."""
    return tuple(
        ModelInfo(
            name=model,
            provider=lane.provider,
            lane=lane.name,
            capabilities=lane.offer.abilities.get(model, ()),
            offered=True,
        )
        for model in lane.models
    )
