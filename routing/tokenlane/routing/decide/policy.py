"""The policy of a pool: the routes and limits of roles, leases and other rules. The pool stores it with a revision.

A route is an ordered list of candidates. The first candidate that matches a lane determines which of the lane's models
serves the request. A role without a route may use every lane.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tokenlane.routing.contract.errors import LlmError, PoolUnavailable
from tokenlane.routing.contract.wire import Name

from .lanes.offer import LaneView


class PolicyChanged(LlmError):
    """The pool's policy has changed in the meantime: compare it with yours, and apply again.

    Somebody else applied a policy. `tokenlane policy diff` shows the difference.
    """

    code = "policy_changed"


class PolicyUnreadable(PoolUnavailable):
    """This version cannot read the pool's policy.

    A newer version of tokenlane or another program wrote the policy. Update tokenlane, or apply a policy with this
    version.
    """

    code = "policy_unreadable"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Candidate(_Frozen):
    """An entry of a route. A field that is None matches anything."""

    provider: str | None = None
    model: str | None = None
    lane: str | None = None

    def is_place_of(self, lane: LaneView) -> bool:
        """Whether the candidate's provider and lane match this lane, whatever models the lane serves."""
        return self.lane in (None, lane.name) and self.provider in (None, lane.provider)


class Limits(_Frozen):
    """The limits of one role; None: the policy's limit applies. `in_flight` counts an agent's requests in all roles."""

    depth: int | None = Field(default=None, ge=1)
    in_flight: int | None = Field(default=None, ge=1)


class RolePolicy(_Frozen):
    """The policy for one role. `weight`: how many requests of the role are served for each of a role with weight 1."""

    route: tuple[Candidate, ...] = ()
    limits: Limits = Limits()
    weight: int = Field(default=1, ge=1)


class Policy(_Frozen):
    """The pool's policy. `revision` counts changes; 0 is the built-in default.

    `depth`: how many requests a role may have at once, waiting and running; `in_flight`: how many an agent may have.
    `start_lease_ms`: how long a lane may take to start a request. `lease_ms`: how long a running request survives
    without a beat from its worker; `orphan_ms`: without a beat from its client, which beats every 2 s. `patience_ms`:
    how long a request without candidates waits for a lane to appear; it waits longer after the pool's server started,
    until all live workers have had time to send a beat. `max_crashes`: how many workers may die while they run a
    request before it fails. `max_starts`: how often a request may be started. `fallback`: what happens to embed
    requests that no candidate can serve: the fallback lane serves them, or they fail.
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
    """How many milliseconds after it first looks at a pool a router or client knows all live workers. Workers send
    three beats per lease; one second is added."""
    return lease_ms // 3 + 1000
