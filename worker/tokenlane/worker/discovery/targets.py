"""Where to look for model servers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tokenlane.config.settings.values import LaneSettings
from tokenlane.worker.providers import default_registry
from tokenlane.worker.providers.server_names import NAMES


@dataclass(frozen=True)
class Target:
    """Where to look. `lane` has an endpoint; `provider` is what should be there, None if that is to be found out."""

    lane: LaneSettings
    provider: str | None = None


def search_targets(configured: Iterable[LaneSettings]) -> list[Target]:
    """The configured back ends, then this host's usual ports, each endpoint once."""
    found: dict[str, Target] = {}
    for lane in configured:
        provider = None if lane.provider == "builtin" else lane.provider
        endpoint = lane.endpoint or default_registry().default_endpoint(lane.provider)
        if endpoint is not None:
            found[_key(endpoint)] = Target(replace(lane, endpoint=endpoint), provider)
    for place in usual_targets():
        found.setdefault(_key(place.lane.endpoint or ""), place)
    return list(found.values())


def usual_targets() -> list[Target]:
    """The ports of this host where model servers listen unless they are told otherwise."""
    registry = default_registry()
    endpoints = dict.fromkeys(registry.default_endpoint(name) for name in NAMES)
    return [Target(LaneSettings("probe", "openai", endpoint)) for endpoint in endpoints if endpoint]


def _key(endpoint: str) -> str:
    """What is the same for two ways to write one endpoint."""
    return endpoint.rstrip("/").removesuffix("/v1").replace("://localhost", "://127.0.0.1")
