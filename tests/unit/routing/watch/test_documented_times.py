"""docs/status.md has the times that decide what the snapshot has and when a finding is reported."""

from __future__ import annotations

import re

from tests.documents import GeneratedPart
from tests.repository import ROOT

from tokenlane.routing.decide.policy import LEASES_KEPT, Policy
from tokenlane.routing.watch import pool_health, redis_health
from tokenlane.routing.watch.snapshot import CLIENT_SILENT_MS, ROUTER_SILENT_MS

PAGE = GeneratedPart(ROOT / "docs" / "status.md", "times")
LEASE_MS = Policy().lease_ms


def lane_kept_ms() -> int:
    """How long the sweep keeps what it knows about a lane."""
    sweep = (ROOT / "routing/tokenlane/routing/store/lua/sweep.lua").read_text(encoding="utf-8")
    names, values = re.findall(r"^local ([A-Z_, ]*LANE_KEPT_MS[A-Z_, ]*) = ([\d, ]+)$", sweep, re.MULTILINE)[0]
    return int(dict(zip(names.split(", "), values.split(", "), strict=True))["LANE_KEPT_MS"])


def written(time_ms: float) -> str:
    """A time with its unit, as people read it."""
    for unit, size_ms in (("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if time_ms >= size_ms * (2 if unit == "min" else 1):
            return f"{time_ms / size_ms:g} {unit}"
    return f"{time_ms:g} ms"


def test_the_times_are_up_to_date() -> None:
    """After a change, `TOKENLANE_RECORD=1` writes them anew."""
    leases = f"{LEASES_KEPT} leases ({written(LEASES_KEPT * LEASE_MS)} by default)"
    times = {
        "lanes are listed after their last beat": written(lane_kept_ms()),
        "workers are listed after their last beat": leases,
        "a worker is `left` or `silent` after its last beat": f"1 lease ({written(LEASE_MS)} by default)",
        "routers are listed after their last sweep": written(ROUTER_SILENT_MS),
        "a client is `silent` after its last beat": written(CLIENT_SILENT_MS),
        "`waits_long`, without `--max-wait`: for how long the oldest request has waited": written(
            1000 * pool_health.MAX_WAIT_S
        ),
        "`lane_silent`: for how long the lane has run chats without a token": written(pool_health.SILENT_MS),
        "`lane_fails`: how old the newest failure is when it becomes a warning": written(pool_health._FAILURES_FADE_MS),
        "`slow_commands`: how long a command took, and how long ago at most": f"{written(redis_health._SLOW_MS)}, "
        f"{written(1000 * redis_health._RECENT_S)}",
    }
    rows = ["| how long | time |", "|---|---|", *(f"| {what} | {time} |" for what, time in times.items())]
    assert PAGE.is_up_to_date("\n".join(rows) + "\n")
