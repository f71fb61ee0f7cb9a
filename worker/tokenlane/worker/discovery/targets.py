"""Lists the endpoints to probe for model servers: the configured ones, and the usual ports of this host."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.values import LaneSettings, masked_url
from tokenlane.worker.providers import default_registry
from tokenlane.worker.providers.http.client import what_is_wrong
from tokenlane.worker.providers.server_names import NAMES


@dataclass(frozen=True)
class Target:
    """An endpoint to probe.

    Args:
        lane: the settings with the endpoint.
        provider: the provider that the endpoint is configured for; None to detect the kind of server.
        accepts_unknown: whether an OpenAI-compatible server whose kind is not recognised may be used, too. A server
            on a usual port may be there for something else, so it is not chosen unasked.
    """

    lane: LaneSettings
    provider: str | None = None
    accepts_unknown: bool = False


def search_targets(configured: Iterable[LaneSettings]) -> list[Target]:
    """The configured endpoints, then the usual ports of this host; each endpoint once."""
    targets: dict[str, Target] = {}
    for lane in configured:
        provider = None if lane.provider == "builtin" else lane.provider
        endpoint = lane.endpoint or default_registry().default_endpoint(lane.provider)
        if endpoint is not None:
            targets[_normalised(endpoint)] = Target(replace(lane, endpoint=endpoint), provider)
    for target in usual_targets():
        targets.setdefault(_normalised(target.lane.endpoint or ""), target)
    return list(targets.values())


def named_targets(endpoints: Iterable[str]) -> list[Target]:
    """The endpoints that the option `--endpoint` names.

    Raises:
        ConfigError: one of them is not a URL of a model server.
    """
    targets = [Target(LaneSettings("named", "openai", endpoint)) for endpoint in endpoints]
    for target in targets:
        endpoint = target.lane.endpoint or ""
        if wrong := what_is_wrong(endpoint):
            raise ConfigError(f"--endpoint: {masked_url(endpoint)!r} {wrong}.")
    return targets


def usual_targets() -> list[Target]:
    """The default ports of model servers on this host."""
    registry = default_registry()
    endpoints = dict.fromkeys(registry.default_endpoint(name) for name in NAMES)
    return [Target(LaneSettings("probe", "openai", endpoint)) for endpoint in endpoints if endpoint]


def _normalised(endpoint: str) -> str:
    """The endpoint in a form that is the same for all ways to write it."""
    return endpoint.rstrip("/").removesuffix("/v1").replace("://localhost", "://127.0.0.1")
