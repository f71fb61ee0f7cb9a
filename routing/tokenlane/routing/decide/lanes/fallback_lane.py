"""The fallback lane, which serves embed requests that no other lane can serve.

A worker may serve it in addition to its own lane. `candidates` chooses it; lists of lanes and error messages omit it.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenlane.config.settings.values import FALLBACK_LANE

from .offer import LaneView


def is_fallback(name: str) -> bool:
    """Whether this is the name of the fallback lane, which no other lane may have."""
    return name == FALLBACK_LANE


def of_model_servers(lanes: Iterable[LaneView]) -> tuple[LaneView, ...]:
    """All lanes except the fallback lane."""
    return tuple(lane for lane in lanes if not is_fallback(lane.name))
