"""The fallback lane embeds where no back end's lane can. Every worker serves it beside its own, and only `candidates`
chooses it: what is shown of lanes, and said of them, is of back ends."""

from __future__ import annotations

from collections.abc import Iterable

from tokenlane.config.settings.values import FALLBACK_LANE

from .offer import LaneView


def is_fallback(name: str) -> bool:
    """Whether that is the fallback lane's name, which no other lane may have."""
    return name == FALLBACK_LANE


def of_back_ends(lanes: Iterable[LaneView]) -> tuple[LaneView, ...]:
    """All lanes but the fallback."""
    return tuple(lane for lane in lanes if not is_fallback(lane.name))
