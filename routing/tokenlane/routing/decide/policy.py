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
    """The pool's policy has changed meanwhile: read and compare it again.

    Somebody else applied a policy meanwhile. `tokenlane policy diff` shows the difference.
    """

    code = "policy_changed"


class PolicyUnreadable(PoolUnavailable):
    """This version cannot read the pool's policy.

    A newer version of tokenlane wrote it, or something else did. Update, or apply a policy with this version.
    """

    code = "policy_unreadable"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Candidate(_Frozen):
    """A place in a route. None matches anything."""

    provider: str | None = None
    model: str | None = None
    lane: str | None = None

    def is_place_of(self, lane: LaneView) -> bool:
        """Whether the lane has this provider and name, whatever models it serves."""
        return self.lane in (None, lane.name) and self.provider in (None, lane.provider)


class Limits(_Frozen):
    """Limits of one role; None: the policy's. `in_flight` counts all requests of an agent, in every role."""

    depth: int | None = Field(default=None, ge=1)
    in_flight: int | None = Field(default=None, ge=1)


class RolePolicy(_Frozen):
    """The policy for one role. `weight`: how many of its requests are served per request of a role with weight 1."""

    route: tuple[Candidate, ...] = ()
    limits: Limits = Limits()
    weight: int = Field(default=1, ge=1)


class Policy(_Frozen):
    """The pool's policy. `revision` counts changes; 0 is the built-in default.

    `depth`, `in_flight`: requests that a role, and an agent, may have at once, waiting and running. `start_lease_ms`:
    how long a lane may take to start a request. `lease_ms`: how long a running request survives without a beat from its
    worker; `orphan_ms`: without a beat from its client, which beats every 2 s. `patience_ms`: how long a request waits
    for a lane that nobody has heard of; longer if live workers may not have beaten since the pool started or came back.
    `max_crashes`: workers that may die while they run a request before it fails. `max_starts`: how often a request may
    be started in all. `fallback`: which lane embeds if no candidate can: the fallback lane, or none.
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
    """How long after its first look at a pool a router or client has heard of all live workers, in milliseconds: they
    beat three times per lease, and get a second more."""
    return lease_ms // 3 + 1000
