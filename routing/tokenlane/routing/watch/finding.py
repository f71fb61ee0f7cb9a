"""One thing that was looked at and what was found: in a pool, around it, or at a model server.

`status --check`, `doctor`, `worker --check` and `probe` find such, print them and write them as JSON in one way.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Self

Severity = Literal["ok", "warn", "fail", "unknown"]
"""`warn`: it works, and will hurt one day. `unknown`: nobody may look."""


class Code(StrEnum):
    """What was looked at, or what is wrong with it. `means`: why it matters, for people."""

    means: str

    def __new__(cls, code: str, means: str) -> Self:
        member = str.__new__(cls, code)
        member._value_, member.means = code, means
        return member

    # The Redis server.
    SERVER_VERSION = "server_version", "the scripts need Redis 6.2 and are tested with Redis 7 and Valkey"
    SERVER_ROLE = "server_role", "a pool is written to, and lives on one primary"
    EVICTION = (
        "maxmemory_policy",
        "a server that evicts keys when it is full loses accepted requests; with noeviction it refuses new ones",
    )
    MEMORY = "memory", "a server without memory refuses new requests"
    PERSISTENCE = (
        "persistence",
        "what the server does not write down, a restart loses: clients that live send it again, others' is gone",
    )
    TIMEOUT = "timeout", "a server that closes idle connections makes clients connect again, in the middle of work"
    PUBSUB_BUFFER = (
        "pubsub_buffer",
        "a client that reads slower than its answers come is cut off beyond this, and asks for what it lost",
    )
    ROUND_TRIP = "round_trip", "every step of a request is one; the first token waits for about five of them"
    CLOCK = "clock", "all times of a pool are the server's; logs and spans of hosts with another time do not fit"
    SERVER_REFUSES = "server_refuses", "workers and routers need all that the scripts do, and publish and subscribe"

    # The pool.
    ROUTERS = "routers", "routers give requests to lanes"
    NO_ROUTER = "no_router", "routers give requests to lanes"
    POLICY = "policy", "who has not seen the newest policy goes by an older one"
    NOT_UNDERSTOOD = (
        "not_understood",
        "another version of tokenlane, or something else, has written what this command cannot read",
    )
    UNSERVED = "unserved", "what no lane that takes work may serve waits until its deadline"
    WAITS_LONG = "waits_long", "the lanes cannot keep up with what is asked of them"
    ROUTE_UNKNOWN = "route_unknown", "a place in a route that nothing is serves nothing; its name may be misspelt"
    VERSIONS = "versions", "workers of one pool are best of one version; agents may be older"
    ENVIRONMENT = "environment", "a variable with a wrong name changes nothing, and nobody says so"

    # Its keys.
    KEY = "key", "without a key, who can read the server's memory or disk can read the prompts of live requests"
    KEY_MISSING = "key_missing", "a worker cannot open what is sealed with a key that it does not have"
    KEY_PREPARED = "key_prepared", "once it seals, only workers that have it take new work"
    KEY_MISMATCH = "key_mismatch", "agents and workers of a pool seal with the same keys, or with none"

    # Its lanes.
    LANE = "lane", "a lane is served by workers that beat"
    NO_LANE = "no_lane", "without a lane nothing is answered"
    LANE_GONE = "lane_gone", "the lane's workers have vanished"
    LANE_CLOSED = "lane_closed", "the lane's worker does not start its work, or lacks a key"
    LANE_DOWN = "lane_down", "the lane's back end cannot work"
    LANE_LOADING = "lane_loading", "the lane's back end loads its model"
    LANE_DEGRADED = "lane_degraded", "a back end of some of the lane's workers cannot work, others serve the lane"
    LANE_TAKEN = "lane_taken", "a lane is one endpoint: another needs another name"
    ONLY_TOY = "only_toy", "answers of the built-in model are of no use"

    # Model servers.
    ENDPOINT = "endpoint", "only the workers of a lane need to reach its endpoint"
    BACK_END = "back_end", "a lane takes no work while its back end cannot do any"
    BACK_END_SHARED = "back_end_shared", "each lane gives its back end as much as its own limit says"
    MODEL_MISSING = "model_missing", "a lane is given work for models that its back end does not have"
    MODEL_NOT_PINNED = "model_not_pinned", "a model that is not as it was pinned is not served"
    OTHER_SERVER = "other_server", "a provider knows its own kind of server, and less of another"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        found: what is, for people.
        advice: what to do, if anything.
        subject: the lane, role, worker or endpoint that it is about; empty if it is the whole pool.
    """

    code: Code
    severity: Severity
    found: str
    advice: str = ""
    subject: str = ""

    @property
    def is_problem(self) -> bool:
        """Whether something is wrong, or will be."""
        return self.severity in ("warn", "fail")

    def __str__(self) -> str:
        """What is and what to do, for people."""
        return "; ".join(filter(None, (self.found, self.advice)))

    def document(self) -> dict[str, str]:
        """The finding for programs."""
        return {
            "code": self.code.value,
            "severity": self.severity,
            "subject": self.subject,
            "found": self.found,
            "means": self.code.means,
            "advice": self.advice,
        }
