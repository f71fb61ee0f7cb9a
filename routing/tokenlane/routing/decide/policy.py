"""The policy of a pool: the routes and limits of roles, leases and other rules. The pool stores it with a revision.

A route is an ordered list of candidates. The first candidate that matches a lane determines which of the lane's models
serves the request. A role without a route may use every lane.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tokenlane.routing.contract.errors import LlmError, PoolUnavailable
from tokenlane.routing.contract.wire import Name

from .lanes.offer import LaneView

LEASES_KEPT = 3
"""For how many leases after a worker's last beat the pool keeps what it knows about the worker."""


class PolicyChanged(LlmError):
    """The pool's policy has changed in the meantime: compare it with yours, and apply again.

    Another command applied a policy after you had read it. `tokenlane policy diff` shows the difference.
    """

    code = "policy_changed"


class PolicyRefused(LlmError):
    """The pool cannot follow this policy.

    `keep_payload` under `[failed]` needs a pool with a key, so that Redis never holds a prompt in plain text. Give the
    pool a key with `tokenlane key new`, or remove `keep_payload`.
    """

    code = "policy_refused"


class PolicyUnreadable(PoolUnavailable):
    """This version cannot read the pool's policy.

    A newer version of tokenlane or another program wrote the policy. Update tokenlane here, or replace the policy with
    `tokenlane policy apply`.
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
    """Limits for one role, in place of the policy's limits; None keeps the policy's.

    `depth`: how many requests the role may have at once. `in_flight`: how many requests an agent may have at once, in
    all roles together, after it has submitted a request to this role.
    """

    depth: int | None = Field(default=None, ge=1)
    in_flight: int | None = Field(default=None, ge=1)


class PromptPolicy(_Frozen):
    """The prompt plugin of a role. `plugin`: the hash of its file. `on_error`: whether a request fails if the plugin
    does, or is sent to the model server as it came."""

    plugin: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    on_error: Literal["fail", "skip"] = "fail"


class RolePolicy(_Frozen):
    """The policy for one role. `continue_with`: which of the route's models may continue an answer that broke off: only
    the model that began it, or any. `weight`: how many of its requests are served for each of a role with weight 1.
    `swapped_from`: the route before the last swap of the role's model; None if there was no swap. Only requests that
    name a model, and answers that broke off, still use it. `prompt`: the plugin that changes the prompts of the role's
    chats."""

    route: tuple[Candidate, ...] = ()
    limits: Limits = Limits()
    continue_with: Literal["same-model", "any"] = "same-model"
    weight: int = Field(default=1, ge=1)
    swapped_from: tuple[Candidate, ...] | None = None
    prompt: PromptPolicy | None = None


class Policy(_Frozen):
    """The pool's policy. `revision` counts changes; 0 is the built-in default.

    - `depth`: how many requests a role may have at once, waiting and running.
    - `in_flight`: how many requests an agent may have at once, in all roles together.
    - `start_lease_ms`: how long a lane may take to start a request.
    - `lease_ms`: how long a running request survives without a beat from its worker.
    - `orphan_ms`: how long a request survives without a beat from its client. Clients send a beat every 2 s.
    - `patience_ms`: how long a request without candidates waits for a lane to appear. After a start of the Redis server
      it waits longer, until every live worker has had time to send a beat.
    - `max_crashes`: how many workers may die while they run a request before it fails.
    - `max_starts`: how often a request may be started.
    - `keep_payload`: whether the pool keeps the sealed payloads of failed requests for a day.
    - `aliases`: the roles that models' names stand for at a gateway, by patterns as in `fnmatch`, case-sensitive. The
      first pattern that matches a name counts.
    - `fallback`: whether the fallback lane serves embed requests that no other candidate can serve, or they fail.
    """

    revision: int = 0
    roles: dict[Name, RolePolicy] = {}
    aliases: dict[str, Name] = {}
    depth: int = Field(default=10_000, ge=1)
    in_flight: int = Field(default=10_000, ge=1)
    start_lease_ms: int = Field(default=2_000, ge=100)
    lease_ms: int = Field(default=10_000, ge=300)
    orphan_ms: int = Field(default=15_000, ge=8_000)
    patience_ms: int = Field(default=2_000, ge=0)
    max_crashes: int = Field(default=3, ge=1)
    max_starts: int = Field(default=8, ge=1)
    fallback: Literal["fasttext", "error"] = "fasttext"
    keep_payload: bool = False


def role_of(model: str, policy: Policy) -> str | None:
    """The role that a model's name stands for by the policy's aliases; None if it is no alias."""
    return next((role for pattern, role in policy.aliases.items() if fnmatchcase(model, pattern)), None)


def all_heard_ms(lease_ms: int) -> int:
    """The milliseconds within which every live worker sends at least one beat: a third of the lease, plus a second in
    reserve. A router or client that has watched the pool for so long knows all live workers."""
    return lease_ms // 3 + 1000
