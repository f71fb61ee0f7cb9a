"""The policy of a pool: routes, limits and leases. It lives in the pool, with a revision.

A route is an ordered list of candidates. A lane serves a request through the first candidate that names it, and the
candidate says which of the lane's models is used. Without a route every role may use every lane.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tokenlane.routing.contract.errors import LlmError, PoolUnavailable
from tokenlane.routing.contract.wire import Name

from .lanes.offer import LaneView


class PolicyChanged(LlmError):
    """The pool's policy is not the one it was compared with: read it again, and compare anew.

    Somebody else applied a policy meanwhile. `tokenlane policy diff` shows the difference.
    """

    code = "policy_changed"


class PolicyUnreadable(PoolUnavailable):
    """The pool's policy is none that this version can read.

    A newer version of tokenlane wrote it, or something else did. Update, or apply a policy with this version.
    """

    code = "policy_unreadable"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Candidate(_Frozen):
    """A place a role may be served. What is None may be anything."""

    provider: str | None = None
    model: str | None = None
    lane: str | None = None

    def is_place_of(self, lane: LaneView) -> bool:
        """Whether the lane is of the provider and the name that are asked for, whatever it serves."""
        return self.lane in (None, lane.name) and self.provider in (None, lane.provider)


class Limits(_Frozen):
    """A role's own limits; None: those of the policy. `in_flight` counts all of an agent's requests, of every role."""

    depth: int | None = Field(default=None, ge=1)
    in_flight: int | None = Field(default=None, ge=1)


class RolePolicy(_Frozen):
    """What holds for one role. `weight`: how many of its requests are served where roles of weight 1 have one each."""

    route: tuple[Candidate, ...] = ()
    limits: Limits = Limits()
    weight: int = Field(default=1, ge=1)


class Policy(_Frozen):
    """The pool's policy. `revision` counts changes; 0 is the built-in default.

    `depth`: requests a role may hold at once, waiting and running. `in_flight`: the same for an agent.
    `start_lease_ms`: how long a lane may take to start what it was given. `lease_ms`: how long a running request
    survives without a beat of its worker. `orphan_ms`: the same for a request whose client has gone; clients
    beat every 2 s.
    `patience_ms`: how long a request waits for a lane nobody has heard of; longer, where the pool is new, or was away
    or lost just before, and workers that live may not have beaten since. `max_crashes`: workers a request may take down
    before it is given up. `max_starts`: times a request may be started in all.
    `fallback`: who embeds where no candidate can: the fallback lane, or nobody.
    """

    revision: int = 0
    roles: dict[Name, RolePolicy] = {}
    depth: int = Field(default=10_000, ge=1)
    in_flight: int = Field(default=10_000, ge=1)
    start_lease_ms: int = Field(default=2_000, ge=100)
    lease_ms: int = Field(default=10_000, ge=300)
    orphan_ms: int = Field(default=15_000, ge=8_000)
    patience_ms: int = Field(default=2_000, ge=0)
    max_crashes: int = Field(default=3, ge=1)
    max_starts: int = Field(default=8, ge=1)
    fallback: Literal["fasttext", "error"] = "fasttext"


def all_heard_ms(lease_ms: int) -> int:
    """Within so many milliseconds of its first sight of a pool everybody has heard of all workers that live: they beat
    three times a lease, and are given a second more."""
    return lease_ms // 3 + 1000
