"""The names of all Redis keys and channels of a pool, with their contents and when they are deleted.

Every name starts with the pool's hash tag, such as `{main}:`, so all keys of a pool are in one slot. The scripts build
the same names from this prefix. The last column names the script that deletes the key, or the event after which a
script or Redis deletes it. `entry` or `field`: only an entry or a field is deleted, and Redis deletes the key with the
last of them.

| key                     | type   | contents                                               | deleted by, or when      |
| ----------------------- | ------ | ------------------------------------------------------ | ------------------------ |
| `role:R`                | stream | the requests of role R: `envelope`, `payload`          | entry: request's end     |
| `request:ID`            | hash   | a request: its fields are listed below                 | 1 h after request's end, |
|                         |        |                                                        | or with its payload      |
| `idem:A:HASH`           | string | id of agent A's request with an idempotency key of     | 1 h after request's end  |
|                         |        | this hash                                              |                          |
| `queues`                | set    | names of queues that hold requests                     | entry: queue is empty    |
| `queue:Q:agents`        | zset   | agents with waiting requests in queue Q, by tag        | entry: its last request  |
|                         |        |                                                        | leaves the queue         |
| `queue:Q:agent:A`       | zset   | ids of agent A's waiting requests, by `seq`            | entry: it leaves queue   |
| `queue:Q:paid`          | zset   | agents by the tag they have paid for, if later than    | queue is empty           |
|                         |        | `clock`                                                |                          |
| `queue:Q:clock`         | hash   | `clock`: tag of the last dispatch; `served`:           | queue is empty           |
|                         |        | `sequence` of the last dispatch, or `seq` of the       |                          |
|                         |        | request that came first; `began`, `left`: how many     |                          |
|                         |        | requests were dispatched since that time, ms           |                          |
| `turn:ROLE:KIND:PRIO`   | hash   | `queues`: how many hold requests; `served`: `sequence` | all its queues are empty |
|                         |        | when the first of them came; for each lane L           |                          |
|                         |        | `served:L`: `sequence` when the last turn ended, and   |                          |
|                         |        | `used:L`: dispatches since then                        |                          |
| `leases`                | zset   | ids of dispatched and running requests, by end of      | entry: attempt's end     |
|                         |        | lease, ms                                              |                          |
| `delayed`               | zset   | ids of delayed requests, by end of delay, ms           | entry: `sweep`,          |
|                         |        |                                                        | request's end            |
| `deadlines`             | zset   | ids of live requests, by deadline, ms                  | entry: `sweep`,          |
|                         |        |                                                        | request's end            |
| `lane:L`, `lane:L:KIND` | zset   | ARQ's queue: job ids by `sequence` of their dispatch   | entry: attempt's end,    |
|                         |        |                                                        | `sweep`                  |
| `lane:L:state`          | hash   | `provider`, `endpoint`, `models`, `limit` (chats),     | `sweep`: 1 h without a   |
|                         |        | `offer` (JSON); `arq`: key prefix; `seen`: last beat,  | beat                     |
|                         |        | ms; `condition` of the model server, and `why`         |                          |
| `lane:L:health-check`,  | string | ARQ's health record, which `arq --check` shows         | after 6 s, or when the   |
| `lane:L:KIND:health-…`  |        |                                                        | worker stops             |
| `lane:L:alone`          | string | id of the suspect that runs alone on lane L, or for    | attempt's end; 2 s after |
|                         |        | which the lane is reserved                             | the reservation          |
| `lane:L:workers`        | zset   | workers that accept new work, by last beat, ms         | entry: 1 lease after a   |
|                         |        |                                                        | beat, draining, lapse,   |
|                         |        |                                                        | or `bury`                |
| `drained`               | set    | lanes that an operator drained: they get no new work   | entry: `stop_work`       |
| `paused`                | set    | roles that an operator paused: their requests wait     | entry: `stop_work`       |
| `lanes`                 | zset   | lanes by the last beat of any of their workers, ms     | entry: `sweep` after 1 h |
| `workers`               | zset   | workers by last beat, ms                               | entry: `sweep` after 3   |
|                         |        |                                                        | leases, or `bury`        |
| `routers`               | zset   | routers by last beat, ms                               | entry: `sweep` after 2 s |
| `worker:W`              | hash   | `lane`, `host`, `versions` (JSON), `keys` (ids),       | 3 leases after a beat,   |
|                         |        | `revision` (of the policy), `report` (JSON), `why`,    | or `bury`                |
|                         |        | `condition`, `error` (code), `error_at` (ms)           |                          |
| `router:R`              | string | revision of the policy that the router follows         | 6 s after a beat         |
| `router:R:survived`     | string | internal errors that the router's process has survived | 6 s after a beat         |
| `clients`               | zset   | clients by last beat, ms; 0 after `leave`              | entry: `sweep`, `leave`  |
| `client:C`, `agent:A`   | set    | ids of the live requests of a client, of an agent      | entry: request's end,    |
|                         |        |                                                        | `sweep`                  |
| `agent:Q:quota`         | set    | ids of the live requests that count against quota Q    | entry: request's end,    |
|                         |        |                                                        | `submit`                 |
| `swept`                 | hash   | `at`: last sweep, ms; `looked`: last sweep or client's | never                    |
|                         |        | beat; `hold`: time before which no lease lapses;       |                          |
|                         |        | `audited`: last removal of jobs whose attempts are     |                          |
|                         |        | over                                                   |                          |
| `unwanted:ID`           | string | the request was cancelled before it arrived: the       | 60 s after `cancel`      |
|                         |        | client that left it, or '' if it was cancelled for     |                          |
|                         |        | every client                                           |                          |
| `sequence`              | string | counter of submissions and dispatches                  | never                    |
| `drain:ROLE`            | hash   | of requests that ran: `at`: last end, ms; `mean`: mean | 1 h after the last end   |
|                         |        | time between ends, ms                                  |                          |
| `rates:T`               | hash   | `ROLE:PRIORITY:EVENT`: requests accepted and ended in  | 80 s after first count   |
|                         |        | 10 s                                                   |                          |
| `retries`               | hash   | `paid_at`: when all retries so far are paid for, ms;   | at that time             |
|                         |        | a completed request moves it nearer                    |                          |
| `failed`                | stream | `id`, `role`, `lane`, `code`, `priority`, `kind` of    | entry: newer ones,       |
|                         |        | some 1,000 requests                                    | `drop_failed`            |
| `kept:ID`               | hash   | `envelope`, `payload` of a failed request, sealed      | 1 day after request's    |
|                         |        |                                                        | end, newer ones,         |
|                         |        |                                                        | `drop_failed`,           |
|                         |        |                                                        | `set_policy`             |
| `kept`                  | zset   | ids of requests with `kept:ID`, by the sum of bytes    | entry: with `kept:ID`;   |
|                         |        | kept so far                                            | 1 day after the last     |
| `key`                   | string | ids of the keys that seal payloads, newest first       | never                    |
| `retiring`              | string | ids of keys that only unseal requests that still wait  | `announce`               |
| `prepared`              | string | ids of keys that only unseal until they begin to seal  | `announce`               |
| `policy`                | hash   | `revision`, `document` (JSON), and fields that scripts | never                    |
|                         |        | read                                                   |                          |
| `api-keys`              | hash   | the API keys by name: JSON, with the SHA-256 digest of | field: `keys revoke`     |
|                         |        | the secret                                             |                          |
| `rehearsal:NAME`        | any    | a key on which `worker --check` tries commands         | `rehearse`, at its end   |
| `arq:job:{main}ID:N`    | string | ARQ's job for attempt N; also `arq:in-progress:` and   | attempt's end, `sweep`   |
|                         |        | `arq:retry:` with the same end                         |                          |

The fields of `request:ID`, with times in ms:

- Written by `submit`: `state`, `role`, `queue`, `agent`, `client` (the owner), `kind`, `entry` (in the stream; '' if
  the server knows the request only from its worker), `key` (id), `seq` (`sequence` at that time), `created`,
  `deadline`, `attempt`, `starts`, `crashes`, `once` (name of its `idem:` key), `quota`.
- Written for an attempt: `lane`, `model`, `token`, `charge` and `alone` by `dispatch`; `worker` and `started` by
  `start`, and `prompt` (the role's prompt plugin as JSON, or '') by the first; `requeued` (an attempt), `suspect`,
  `history`, `delayed_by` ("budget" if the retry budget delays the request) and `span` (trace context of the attempt's
  span) by `requeue`; `emptied` (the lane reserved for a suspect).
  `history` has a line for each of the newest 16 requeued attempts: the JSON list of `attempt`, `lane`, `model`,
  `started`, the time of its end, and a code.
- Written at the end: `cancel` (the reason, while the request still runs), `code`, `ended`, `end` (number of deltas),
  `failure` (its entry in `failed`).

Channels, whose names also contain the database number, since pub/sub ignores it: `deltas:ID` (messages to the agent),
`control:W` (messages to a worker), `doorbell` (to routers), `doorbell:L` and `doorbell:L:KIND` (to the lane's workers:
a new job), `pulls:L` (to the lane's workers: a model to pull), `hub:NAME` (no messages).
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenlane.config.settings.values import NAME_RULE, is_name
from tokenlane.routing.contract.kinds import queue_suffix


@dataclass(frozen=True)
class Keys:
    """The names of one pool's keys and channels in one Redis database.

    Raises:
        ValueError: `pool` is not a valid name.
    """

    pool: str = "main"
    database: int = 0

    def __post_init__(self) -> None:
        if not is_name(self.pool):
            raise ValueError(f"{self.pool!r} is not a pool's name: {NAME_RULE}")

    @property
    def tag(self) -> str:
        """The hash tag, such as `{main}`."""
        return f"{{{self.pool}}}"

    @property
    def prefix(self) -> str:
        """The prefix of every key. Each script gets it as its only key."""
        return f"{self.tag}:"

    @property
    def channels(self) -> str:
        """The prefix of every channel."""
        return f"{self.tag}:{self.database}:"

    @property
    def policy(self) -> str:
        return f"{self.prefix}policy"

    @property
    def api_keys(self) -> str:
        """The hash of all API keys."""
        return f"{self.prefix}api-keys"

    @property
    def deadlines(self) -> str:
        """The sorted set of all requests that have not ended."""
        return f"{self.prefix}deadlines"

    @property
    def leases(self) -> str:
        """The sorted set of all requests that are dispatched or run."""
        return f"{self.prefix}leases"

    @property
    def failed(self) -> str:
        """The stream of requests that failed."""
        return f"{self.prefix}failed"

    @property
    def kept(self) -> str:
        """The sorted set of failed requests whose payload is kept."""
        return f"{self.prefix}kept"

    def kept_payload(self, request_id: str) -> str:
        return f"{self.prefix}kept:{request_id}"

    def request(self, request_id: str) -> str:
        return f"{self.prefix}request:{request_id}"

    def lane_queue(self, lane: str, kind: str = "chat") -> str:
        """The ARQ queue of a lane for one kind of work."""
        return f"{self.prefix}lane:{lane}{queue_suffix(kind)}"

    def rehearsal(self, name: str) -> str:
        """The temporary key on which a rehearsal with this name tries commands."""
        return f"{self.prefix}rehearsal:{name}"

    def arq(self, name: str) -> str:
        """The key that ARQ uses in this pool where ARQ itself would use `name`."""
        return f"{self.prefix}{name}"

    def deltas(self, request_id: str) -> str:
        return f"{self.channels}deltas:{request_id}"

    def control(self, worker: str) -> str:
        return f"{self.channels}control:{worker}"

    def hub(self, name: str) -> str:
        """A channel on which nobody publishes. A hub subscribes to it to open its pub/sub connection."""
        return f"{self.channels}hub:{name}"

    @property
    def doorbell(self) -> str:
        """The channel on which scripts tell routers that there may be a request to dispatch."""
        return f"{self.channels}doorbell"

    def lane_pulls(self, lane: str) -> str:
        """The channel on which routers ask a lane to pull a model."""
        return f"{self.channels}pulls:{lane}"

    def lane_doorbell(self, lane: str, kind: str = "chat") -> str:
        """The channel on which `dispatch` tells a lane's workers of a new job of this kind. The message is its id."""
        return f"{self.channels}doorbell:{lane}{queue_suffix(kind)}"
