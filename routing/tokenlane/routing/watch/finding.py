"""The result of one check of a pool, its Redis server, its lanes or a model server.

`status --check`, `doctor`, `worker --check` and `probe` print findings and write them as JSON, all in the same form.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Self

from tokenlane.config.cli.sentences import joined
from tokenlane.routing.decide.wait_cause import WaitCause

Severity = Literal["ok", "warn", "fail", "unknown"]
"""`warn`: works now, but may cause trouble later. `unknown`: the server does not let this user check."""


class Code(StrEnum):
    """What was checked, or what is wrong. `means`: why that matters."""

    means: str

    def __new__(cls, code: str, means: str) -> Self:
        member = str.__new__(cls, code)
        member._value_, member.means = code, means
        return member

    # The Redis server.
    SERVER_VERSION = "server_version", "the scripts need Redis 6.2 and are tested with Redis 7 and Valkey"
    SERVER_ROLE = "server_role", "a pool lives on one primary, which must accept writes"
    SENTINELS = (
        "sentinels",
        "if the primary fails, most of the Sentinels must agree on the replica that takes its place",
    )
    EVICTION = (
        "maxmemory_policy",
        "a full server that evicts keys loses accepted requests; with noeviction it refuses new ones instead",
    )
    MEMORY = "memory", "a server without free memory refuses new requests"
    PERSISTENCE = (
        "persistence",
        "a restart loses what is not on disk; running clients send their requests again, other requests are lost",
    )
    TIMEOUT = "timeout", "clients whose idle connections the server closes have to reconnect while requests run"
    PUBSUB_BUFFER = (
        "pubsub_buffer",
        "the server disconnects a client that falls behind by more than this; the client then asks for a replay",
    )
    ROUND_TRIP = (
        "round_trip",
        "the first token of a request waits for about five round trips",
    )
    CLOCK = (
        "clock",
        "a pool uses the server's clock, so logs and spans of a host whose clock differs do not line up",
    )
    SLOW_COMMANDS = "slow_commands", "the server runs one command at a time, so a slow command delays all tokens"
    SERVER_REFUSES = (
        "server_refuses",
        "workers and routers need every command of the scripts, and pub/sub",
    )

    # The pool.
    POOL_UNUSED = "pool_unused", "a pool exists as soon as it is named, so a misspelt name is a pool without lanes"
    ROUTERS = "routers", "routers give requests to lanes"
    NO_ROUTER = "no_router", "routers give requests to lanes"
    POLICY = "policy", "routers and workers that have not read the newest policy follow an older one"
    NOT_UNDERSTOOD = (
        "not_understood",
        "another version of tokenlane, or another program, wrote data that this command cannot read",
    )
    UNSERVED = "unserved", "requests that no available lane may serve wait until their deadline"
    WAITS_LONG = "waits_long", "the lanes cannot keep up with the requests"
    REQUESTS_REFUSED = (
        "requests_refused",
        "agents get QueueFull while their role, an agent or an API key is at its limit",
    )
    ROLE_FAILS = "role_fails", "most requests of the role get an error, or no answer by their deadline"
    ROUTE_UNKNOWN = "route_unknown", "a route entry that matches no lane serves nothing; its name may be misspelt"
    PLUGIN_MISSING = (
        "plugin_missing",
        "a lane whose worker lacks the prompt plugin of a role passes the role's chats on, and the last one fails them",
    )
    VERSIONS = "versions", "workers of one pool should run one version; agents may be older"
    HOOKS = "hooks", "a worker whose hook cannot be imported does not start"
    ENVIRONMENT = "environment", "a variable with a wrong name is ignored silently"

    # Its keys.
    KEY = "key", "without a key, anyone who can read the server's memory or disk can read the prompts of live requests"
    KEY_MISSING = "key_missing", "a worker cannot open requests sealed with a key that it does not have"
    KEY_PREPARED = "key_prepared", "once requests are sealed with a key, only workers that have the key accept new work"
    KEY_MISMATCH = "key_mismatch", "agents and workers of a pool must use the same keys, or none"

    # Its lanes.
    LANE = "lane", "a lane needs a worker that sends heartbeats"
    NO_LANE = "no_lane", "without a lane no request is answered"
    LANE_GONE = "lane_gone", "the lane's workers have vanished"
    LANE_CLOSED = "lane_closed", "the lane's worker does not start its requests, or lacks a key"
    LANE_DOWN = "lane_down", "the lane's model server cannot work"
    LANE_LOADING = "lane_loading", "the lane's model server loads its model"
    LANE_DEGRADED = (
        "lane_degraded",
        "some workers' model servers cannot work; the others serve the lane",
    )
    LANE_PAUSED = "lane_paused", "the lane's model server refuses requests for a while, so the lane gets none meanwhile"
    LANE_SILENT = "lane_silent", "a model server that accepts requests and sends nothing lets them expire"
    LANE_FAILS = "lane_fails", "the lane's model server fails its requests, although it is healthy"
    LANE_TAKEN = "lane_taken", "a lane is one endpoint, so a second endpoint needs another lane name"
    ONLY_TOY = "only_toy", "the built-in model's answers are useless for real work"

    # Model servers.
    ENDPOINT = "endpoint", "only the lane's workers need to reach its endpoint"
    MODEL_SERVER = "model_server", "a lane accepts no work while its model server cannot work"
    MODEL_SERVER_SHARED = (
        "model_server_shared",
        "each lane sends up to its limit of requests, so together they may overload it",
    )
    MODEL_MISSING = "model_missing", "a lane serves only models that its model server has"
    MODEL_NOT_PINNED = "model_not_pinned", "a model that differs from its pinned digest is not served"
    OTHER_SERVER = "other_server", "a provider supports its own kind of server fully, and others only in part"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        observed: the observation, in words.
        advice: what to do about it; empty if there is nothing to do.
        subject: the lane, role, worker or endpoint that was checked; empty for the whole pool.
        cause: why the requests wait that the finding is about; None if it is about something else.
    """

    code: Code
    severity: Severity
    observed: str
    advice: str = ""
    subject: str = ""
    cause: WaitCause | None = None

    @property
    def is_problem(self) -> bool:
        """Whether this is a failure or a warning."""
        return self.severity in ("warn", "fail")

    def __str__(self) -> str:
        return joined(self.observed, self.advice)

    def document(self) -> dict[str, str]:
        """The finding as JSON."""
        return {
            "code": self.code.value,
            "severity": self.severity,
            "subject": self.subject,
            "found": self.observed,
            "means": self.code.means,
            "advice": self.advice,
        }
