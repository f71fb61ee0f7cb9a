"""What `up` serves where nothing says which provider: a model server that is found, else the built-in model."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import replace

from tokenlane.config.cli.plain_text import one_line
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.values import LaneSettings
from tokenlane.worker.providers.server_names import NAMES

from .model_servers import ModelServer, look, look_at_all
from .targets import Target


def choose(lane: LaneSettings, among: Iterable[Target]) -> ModelServer | None:
    """The model server for a lane without a provider: that at its endpoint if it has one, else the first that is found
    with the models it is to serve.

    Raises:
        ConfigError: what is at the lane's endpoint cannot be used.
    """
    if lane.endpoint is None:
        return asyncio.run(find(lane, among))
    seen = asyncio.run(look(Target(lane)))
    if seen.problem:
        raise ConfigError(
            f"{seen.endpoint} cannot be used: {seen.problem}. Name its provider with --provider if you know it."
        )
    return seen


async def find(lane: LaneSettings, among: Iterable[Target], avoids: Collection[str] = ()) -> ModelServer | None:
    """The first model server that is found with the models that the lane is to serve, but at these endpoints."""
    wanted = [Target(replace(place.lane, models=lane.models), place.provider) for place in among]
    servers = await look_at_all(wanted)
    return next((seen for seen in servers if not seen.problem and seen.endpoint not in avoids), None)


def reason(seen: ModelServer) -> str:
    """Which model server was chosen, and why, for a person."""
    assert seen.provider is not None
    model = seen.lane.models[0] if seen.lane.models else seen.models[0]
    return one_line(
        f"{model}, of {NAMES[seen.provider]} at {seen.endpoint}, which was found there; no provider is configured"
    )
