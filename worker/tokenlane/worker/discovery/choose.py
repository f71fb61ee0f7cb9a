"""Chooses a model server for a lane whose settings name no provider."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import replace

from tokenlane.config.cli.plain_text import one_line
from tokenlane.config.cli.sentences import sentence
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.values import LaneSettings
from tokenlane.worker.providers.server_names import NAMES

from .model_servers import ModelServer, probe_target, probe_targets
from .targets import Target


def choose_model_server(lane: LaneSettings, targets: Iterable[Target]) -> ModelServer | None:
    """The model server at the lane's endpoint; for a lane without an endpoint, the first target with the lane's models.

    Raises:
        ConfigError: the server at the lane's endpoint cannot be used.
    """
    if lane.endpoint is None:
        return asyncio.run(find_model_server(lane, targets))
    server = asyncio.run(probe_target(Target(lane)))
    if server.problem:
        raise ConfigError(
            f"{server.endpoint} cannot be used: {sentence(str(server.problem))} If you know which kind of server it "
            "is, set --provider."
        )
    return server


async def find_model_server(
    lane: LaneSettings, targets: Iterable[Target], avoids: Collection[str] = ()
) -> ModelServer | None:
    """The first target that is a model server with the lane's models. Targets at endpoints in `avoids` do not count."""
    wanted = [Target(replace(target.lane, models=lane.models), target.provider) for target in targets]
    servers = await probe_targets(wanted)
    return next((server for server in servers if not server.problem and server.endpoint not in avoids), None)


def describe_choice(server: ModelServer) -> str:
    """Describe the chosen model server, and why it was chosen, on one line."""
    assert server.provider is not None
    model = server.lane.models[0] if server.lane.models else server.models[0]
    return one_line(
        f"{model} on {NAMES[server.provider]} at {server.endpoint}, chosen because no provider is configured"
    )
