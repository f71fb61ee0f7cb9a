"""Parses a lane in a script's reply into a `LaneView`, by the names in LANE_FACTS of lua/shared/lanes.lua.

A worker of another version, or any other Redis client, may have written the values. `LaneView.unread` lists the values
that this version cannot parse.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache

from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.decide.lanes.offer import LaneView, Offer, parse_models, parse_offer
from tokenlane.routing.decide.lanes.state import LaneWorkers

from .values import Reply, as_list, as_text

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"[0-9]{1,15}")


def parse_lanes(reply: Reply) -> tuple[LaneView, ...]:
    """Parse the lanes in a reply of `survey`, `list_lanes` or `check`; the first row is LANE_FACTS. Values that this
    version cannot parse are logged once."""
    header, *rows = as_list(reply)
    names = [as_text(name) for name in as_list(header)]
    lanes = tuple(parse_lane(names, [_decoded(part) for part in as_list(row)]) for row in rows)
    for lane in lanes:
        for what in lane.unread:
            _log_unreadable(lane.name, what)
    return lanes


def parse_lane(names: Sequence[str], row: Sequence[object]) -> LaneView:
    """Parse a lane. `row`: its values, one for each of the `names`."""
    pairs = list(zip(names, row, strict=True))
    texts = {name: value for name, value in pairs if isinstance(value, str)}
    counts = {name: value for name, value in pairs if isinstance(value, int)}
    models, offer = parse_models(texts.get("models", "")), parse_offer(texts.get("offer", ""))
    limit = texts.get("limit", "")
    chats = int(limit) if _NUMBER.fullmatch(limit) else None
    offered = offer or Offer()
    if offered.limits.get("chat") != chats:  # scripts use `limit` for chats, and older workers announce only `limit`
        offered = offered.model_copy(update={"limits": {**offered.limits, "chat": chats or 0}})
    is_drained = counts.get("drained", 0) > 0
    return LaneView(
        name=texts.get("name", ""),
        provider=texts.get("provider", ""),
        endpoint=texts.get("endpoint", ""),
        models=models or (),
        offer=offered,
        queued={kind: counts.get(f"queued:{kind}", 0) for kind in KINDS},
        facts=LaneWorkers(
            texts.get("condition", ""), counts.get("beats", 0) > 0, counts.get("accepting_workers", 0), is_drained
        ),
        beat_ms=counts.get("beat_ms", 0),
        why="an operator drained it" if is_drained else texts.get("why", ""),
        reserved_for=texts.get("reserved_for", ""),
        unread=tuple(part for part, read in (("models", models), ("limit", chats), ("offer", offer)) if read is None),
    )


def _decoded(part: Reply) -> object:
    return part.decode("utf-8", "replace") if isinstance(part, bytes) else part


@lru_cache(maxsize=256)
def _log_unreadable(lane: str, what: str) -> None:
    work = "only chats" if what == "offer" else "no work"
    logger.error(
        "cannot read the %s of lane %r, so it gets %s: run the same version of tokenlane on all hosts", what, lane, work
    )
