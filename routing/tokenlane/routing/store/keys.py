"""The names of all Redis keys and channels of a pool, with their contents and when they are deleted.

Every name starts with the pool's hash tag, `{main}:`, so all keys of a pool are in one slot. Pub/sub ignores the
database number, so channel names contain it.

| key                     | type   | holds                                                    | deleted                |
| ----------------------- | ------ | -------------------------------------------------------- | ---------------------- |
| `role:R`                | stream | an entry for each request: `envelope`, `payload`         | request's end          |
| `request:ID`            | hash   | state, attempt, starts, crashes, lane, worker, times     | 1 h after its end      |
| `idem:A:KEY`            | string | id of the agent's request with that idempotency key      | with its request       |
| `queues`                | set    | names of queues that hold requests                       | when empty             |
| `queue:Q:agents`        | zset   | agents with waiting requests, by fair tag                | when empty             |
| `queue:Q:agent:A`       | zset   | ids of an agent's waiting requests, by `seq`             | when empty             |
| `queue:Q:paid`          | zset   | agents by finish tag, if later than the clock            | when the queue is empty|
| `queue:Q:clock`         | hash   | virtual time `clock`; `served`: `sequence` of its last   | when the queue is empty|
|                         |        | dispatch, or else of its first request                   |                        |
| `turn:ROLE:KIND:PRIO`   | hash   | `queues`: how many hold requests; `served`: `sequence`   | when no queue holds a  |
|                         |        | when the first began to wait; for each lane              | request                |
|                         |        | `served:LANE`: when the last turn ended, and             |                        |
|                         |        | `used:LANE`: requests served since then                  |                        |
| `leases`                | zset   | ids, dispatched or running, by end of the lease (ms)     | attempt's end          |
| `delayed`               | zset   | ids of delayed requests, by end of the delay (ms)        | `sweep`, request's end |
| `deadlines`             | zset   | ids of live requests, by deadline (ms)                   | request's end          |
| `lane:L`, `lane:L:KIND` | zset   | ARQ's queue: job ids by dispatch sequence                | attempt's end          |
| `lane:L:state`          | hash   | provider, endpoint, models, limit, `offer`, `arq`;       | `sweep`, after 1 h     |
|                         |        | `seen`: last beat; `told`, `why`: state of its server    |                        |
| `lane:L:health-check`,  | string | ARQ's health record, which `arq --check` shows           | after 6 s              |
| `lane:L:KIND:health-…`  |        |                                                          |                        |
| `lane:L:alone`          | string | id of the suspect that runs on the lane alone, or for    | attempt's end, or 2 s  |
|                         |        | which the lane is kept free                              |                        |
| `lane:L:workers`        | zset   | workers that take new work, by beat (ms)                 | `sweep`, SIGTERM       |
| `lanes`                 | zset   | lanes by last beat of one of their workers (ms)          | `sweep`, after 1 h     |
| `workers`, `routers`    | zset   | by beat (ms)                                             | `sweep`                |
| `worker:W`              | hash   | lane, host, versions, policy revision, newest error,     | after 3 leases         |
|                         |        | `report` (JSON), key ids, `told`, `why`                  |                        |
| `router:R`,             | string | revision of the policy that the router follows; internal | after 6 s              |
| `router:R:survived`     |        | errors that its process has survived                     |                        |
| `clients`               | zset   | by beat (ms)                                             | `sweep`, leaving       |
| `client:C`, `agent:A`   | set    | live ids of a client, of an agent                        | request's end, `sweep` |
| `swept`                 | hash   | `at`: last sweep; `looked`: last sweep or client's beat; | never                  |
|                         |        | `hold`: time before which no lease lapses                |                        |
| `unwanted:ID`           | string | the request was cancelled before it arrived; holds the   | after 60 s             |
|                         |        | client that cancelled it, or '' for any client           |                        |
| `sequence`              | string | a counter of submissions and dispatches                  | never                  |
| `drain:ROLE`            | hash   | `at`: last end of a request; `mean`: ms between ends     | 1 h after the last end |
| `pulls`                 | hash   | by lane, JSON: the models it is pulling, with progress   | lane's beat, `sweep`   |
| `unready`               | hash   | by lane: why it takes no work, `loading` or `down`       | lane's beat, `sweep`   |
| `rates:T`               | hash   | `ROLE:PRIORITY:EVENT`: requests accepted, ended in 10 s  | after 80 s             |
| `failed`                | stream | id, role, lane, code of the newest 1,000 failed requests | never                  |
| `key`                   | string | ids of the keys that seal payloads, newest first         | never                  |
| `retiring`              | string | ids of keys that only unseal requests that still wait    | when dropped           |
| `prepared`              | string | ids of keys that only unseal until they begin to seal    | when they seal         |
| `policy`                | hash   | `revision`, `document`, and fields that scripts read     | never                  |
| `rehearsal:NAME`        | any    | a key on which `worker --check` tries commands           | at once                |
| `arq:job:{main}ID:N`    | string | ARQ's job; also its `arq:in-progress:` and `arq:retry:`  | attempt's end          |

Channels: `deltas:ID` (to the agent), `control:W` (to a worker), `doorbell` (to routers), `doorbell:L` and
`doorbell:L:KIND` (to the lane's workers: a new job), `pulls:L` (to the lane's workers: a model to pull), `hub:NAME` (no
messages). The scripts build the same names from the prefix.
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
    def deadlines(self) -> str:
        """The key of the set of all requests that have not ended."""
        return f"{self.prefix}deadlines"

    def request(self, request_id: str) -> str:
        return f"{self.prefix}request:{request_id}"

    def lane_queue(self, lane: str, kind: str = "chat") -> str:
        """The ARQ queue of a lane for one kind of work."""
        return f"{self.prefix}lane:{lane}{queue_suffix(kind)}"

    def rehearsal(self, name: str) -> str:
        """A temporary key on which `rehearse` tries commands."""
        return f"{self.prefix}rehearsal:{name}"

    def arq(self, name: str) -> str:
        """This pool's key for the ARQ key `name`."""
        return f"{self.prefix}{name}"

    def deltas(self, request_id: str) -> str:
        return f"{self.channels}deltas:{request_id}"

    def control(self, worker: str) -> str:
        return f"{self.channels}control:{worker}"

    def hub(self, name: str) -> str:
        """A channel without messages. A hub subscribes to it to turn its connection into a pub/sub connection."""
        return f"{self.channels}hub:{name}"

    @property
    def doorbell(self) -> str:
        """Rung when a router may have something to do."""
        return f"{self.channels}doorbell"

    def lane_pulls(self, lane: str) -> str:
        """The channel on which routers ask a lane to pull a model."""
        return f"{self.channels}pulls:{lane}"

    def lane_doorbell(self, lane: str, kind: str = "chat") -> str:
        """Rung when a lane has a new job of that kind. The message is the job's id."""
        return f"{self.channels}doorbell:{lane}{queue_suffix(kind)}"
