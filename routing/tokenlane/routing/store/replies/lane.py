"""Reads what scripts know of a lane, as LANE_FACTS of lua/common.lua names it.

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

from .values import Reply, as_list, as_text

__all__ = ["lane_of", "read_lanes"]

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"[0-9]{1,15}")


def read_lanes(reply: Reply) -> tuple[LaneView, ...]:
    """The lanes that `survey` and `check` reply, below the names of what is known of each.

    That a part of one cannot be read is logged once.
    """
    header, *rows = as_list(reply)
    names = [as_text(name) for name in as_list(header)]
    lanes = tuple(
        lane_of(names, [as_text(part) if isinstance(part, bytes) else part for part in as_list(row)]) for row in rows
    )
    for lane in lanes:
        for what in lane.unread:
            _complain(lane.name, what)
    return lanes


def lane_of(names: Sequence[str], row: Sequence[object]) -> LaneView:
    """The lane of which this is known: a value for each name."""
    known = dict(zip(names, row, strict=True))
    models, offer = models_in(_text(known, "models")), offer_in(_text(known, "offer"))
    limit = _text(known, "limit")
    chats = int(limit) if _NUMBER.fullmatch(limit) else None
    offered = offer or Offer()
    if offered.limits.get("chat") != chats:  # scripts read this one by itself, and an older worker offers no other
        offered = _with_chats(offered, chats or 0)
    unread = models is None or chats is None or offer is None
    return LaneView(
        name=_text(known, "name"),
        provider=_text(known, "provider"),
        endpoint=_text(known, "endpoint"),
        models=models or (),
        offer=offered,
        queued={kind: _count(known, f"queued:{kind}") for kind in KINDS},
        facts=LaneFacts(_text(known, "told"), _count(known, "beats") > 0, _count(known, "takers")),
        beat_ms=_count(known, "beat_ms"),
        why=_text(known, "why"),
        kept_for=_text(known, "kept_for"),
        unread=_parts(models=models, limit=chats, offer=offer) if unread else (),
    )


def _with_chats(offer: Offer, chats: int) -> Offer:
    return offer.model_copy(update={"limits": {**offer.limits, "chat": chats}})


def _parts(**read: object) -> tuple[str, ...]:
    return tuple(what for what, value in read.items() if value is None)


def _text(known: Mapping[str, object], name: str) -> str:
    value = known.get(name, "")
    return value if isinstance(value, str) else ""


def _count(known: Mapping[str, object], name: str) -> int:
    value = known.get(name, 0)
    return value if isinstance(value, int) else 0


@lru_cache(maxsize=256)
def _complain(lane: str, what: str) -> None:
    given = "chats alone" if what == "offer" else "no work"
    logger.error(
        "the %s of lane %r cannot be read; it is given %s: run one version of tokenlane everywhere", what, lane, given
    )
