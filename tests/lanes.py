"""Lanes as routers know them, for tests that need some."""

from __future__ import annotations

from typing import Any

from tokenlane.routing.contract.wire import Kind
from tokenlane.routing.decide.lanes.offer import LaneView, Offer
from tokenlane.routing.decide.lanes.state import LaneWorkers


def chats(limit: int, **more: Any) -> Offer:
    """The offer of a lane that takes so many chats at once."""
    return Offer(limits={"chat": limit}, **more)


def in_state(state: str) -> LaneWorkers:
    """What is known of the workers of a lane in that state."""
    if state in ("up", "degraded"):
        return LaneWorkers("up", unready=int(state == "degraded"))
    return LaneWorkers(
        "draining" if state == "left" else state, beats=state not in ("left", "gone"), accepting_workers=0
    )


def lane_view(
    name: str,
    provider: str = "vllm",
    endpoint: str = "http://there",
    models: tuple[str, ...] = ("m",),
    limit: int = 1,
    *,
    queued: int | dict[Kind, int] = 0,
    state: str = "up",
    **more: Any,
) -> LaneView:
    """A lane of which that is known; what else is known of it is in `more`."""
    jobs: dict[Kind, int] = {"chat": queued} if isinstance(queued, int) else queued
    fields: dict[str, Any] = {"offer": chats(limit), "queued": jobs, "facts": in_state(state), **more}
    return LaneView(name, provider, endpoint, models, **fields)
