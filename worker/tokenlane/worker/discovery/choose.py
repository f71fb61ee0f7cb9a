"""Chooses a model server for a lane without a provider."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import replace

from tokenlane.config.cli.plain_text import one_line
from tokenlane.config.cli.sentences import sentence
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.values import LaneSettings
from tokenlane.worker.providers.server_names import NAMES

from .model_servers import ModelServer, look, look_at_all
from .targets import Target


def choose(lane: LaneSettings, targets: Iterable[Target]) -> ModelServer | None:
    """The model server at the lane's endpoint, or, if it has none, the first target that has the lane's models.

    Raises:
        ConfigError: the server at the lane's endpoint cannot be used.
    """
    if lane.endpoint is None:
        return asyncio.run(find(lane, targets))
    server = asyncio.run(look(Target(lane)))
    if server.problem:
        raise ConfigError(
            f"{server.endpoint} cannot be used: {sentence(str(server.problem))} Set --provider if you know it."
        )
    return server


async def find(lane: LaneSettings, targets: Iterable[Target], avoids: Collection[str] = ()) -> ModelServer | None:
    """The first target, except at endpoints in `avoids`, that is a model server with the lane's models."""
    wanted = [Target(replace(target.lane, models=lane.models), target.provider) for target in targets]
    servers = await look_at_all(wanted)
    return next((server for server in servers if not server.problem and server.endpoint not in avoids), None)


def reason(server: ModelServer) -> str:
    """The chosen model server, and why it was chosen."""
    assert server.provider is not None
    model = server.lane.models[0] if server.lane.models else server.models[0]
    return one_line(f"{model}, of {NAMES[server.provider]} at {server.endpoint}, found since no provider is configured")
