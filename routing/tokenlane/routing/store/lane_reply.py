"""Reads what scripts know of a lane, as `lane_facts` of lua/common.lua names it.

A worker of any version, or anybody, has written most of it. What cannot be read is named in `LaneView.unread`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.decide.lanes.offer import LaneView, Offer, models_in, offer_in
from tokenlane.routing.decide.lanes.state import LaneFacts

from .replies import Reply, as_list, as_text

__all__ = ["lane_of", "read_lane"]

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"[0-9]{1,15}")


def read_lane(reply: Reply) -> LaneView:
    """The lane, as `survey` and `check` reply it; that a part of it cannot be read is logged once."""
    lane = lane_of([part if isinstance(part, int) else as_text(part) for part in as_list(reply)])
    for what in lane.unread:
        _complain(lane.name, what)
    return lane


def lane_of(reply: Sequence[str | int]) -> LaneView:
    """The lane of which this is known: name, value, name, and so on; the last of a name counts."""
    known = {str(name): value for name, value in zip(reply[::2], reply[1::2], strict=True)}
    models, offer = models_in(_text(known, "models")), offer_in(_text(known, "offer"))
    limit = _text(known, "limit")
    chats = int(limit) if _NUMBER.fullmatch(limit) else None
    read = {"models": models, "limit": chats, "offer": offer}
    offered = offer or Offer()
    if offered.limits.get("chat") != chats:  # scripts read this one by itself, and an older worker offers no other
        offered = offered.model_copy(update={"limits": {**offered.limits, "chat": chats or 0}})
    return LaneView(
        name=_text(known, "name"),
        provider=_text(known, "provider"),
        endpoint=_text(known, "endpoint"),
        models=models or (),
        offer=offered,
        queued={kind: _count(known, f"queued:{kind}") for kind in KINDS},
        facts=LaneFacts(_text(known, "told"), beats=_count(known, "beats") > 0, takers=_count(known, "takers")),
        beat_ms=_count(known, "beat_ms"),
        why=_text(known, "why"),
        kept_for=_text(known, "kept_for"),
        unread=tuple(what for what, value in read.items() if value is None),
    )


def _text(known: Mapping[str, str | int], name: str) -> str:
    value = known.get(name, "")
    return value if isinstance(value, str) else ""


def _count(known: Mapping[str, str | int], name: str) -> int:
    value = known.get(name, 0)
    return value if isinstance(value, int) else 0


@lru_cache(maxsize=256)
def _complain(lane: str, what: str) -> None:
    given = "chats alone" if what == "offer" else "no work"
    logger.error(
        "the %s of lane %r cannot be read; it is given %s: run one version of tokenlane everywhere", what, lane, given
    )
