"""The fallback lane, which embeds where no back end's lane can.

Every worker may serve it next to its own lane. Only `candidates` chooses it; lists of lanes and messages leave it out.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenlane.config.settings.values import FALLBACK_LANE

from .offer import LaneView


def is_fallback(name: str) -> bool:
    """Whether this is the name of the fallback lane, which no other lane may have."""
    return name == FALLBACK_LANE


def of_back_ends(lanes: Iterable[LaneView]) -> tuple[LaneView, ...]:
    """All lanes but the fallback."""
    return tuple(lane for lane in lanes if not is_fallback(lane.name))
