"""All keys and channels of a pool, with what they hold and who deletes them.

Every name starts with the pool's hash tag, `{main}:`, so a pool lives in one slot and its scripts are legal on Redis
Cluster. Pub/sub ignores the database number, so channel names carry it.

| key                     | type   | holds                                                    | deleted                |
| ----------------------- | ------ | -------------------------------------------------------- | ---------------------- |
| `role:R`                | stream | an entry for each request: `envelope`, `payload`         | request's end          |
| `request:ID`            | hash   | state, attempt, starts, crashes, lane, worker, times     | 1 h past its end       |
| `idem:A:KEY`            | string | id of the agent's request with that idempotency key      | with its request       |
| `queues`                | set    | names of queues that hold something                      | last one leaving       |
| `queue:Q:agents`        | zset   | agents with something waiting, by fair tag               | last one leaving       |
| `queue:Q:agent:A`       | zset   | ids that an agent has waiting, by order of submission    | last one leaving       |
| `queue:Q:paid`          | zset   | agents by finish tag, where later than the clock         | queue empty            |
| `queue:Q:clock`         | hash   | virtual time `clock`; `served`: `sequence` of its last   | queue empty            |
|                         |        | dispatch, or else of its first request                   |                        |
| `turn:ROLE:KIND:PRIO`   | hash   | how many `queues` hold something; `served`: `sequence`   | last one leaving       |
|                         |        | since when; at a lane: `served:LANE`, when the last turn |                        |
|                         |        | ended, `used:LANE`, served since                         |                        |
| `leases`                | zset   | dispatched and running ids, by lapse of lease (ms)       | attempt's end          |
| `delayed`               | zset   | ids of delayed requests, by when they wait again (ms)    | `sweep`, the end       |
| `deadlines`             | zset   | ids of live requests, by deadline (ms)                   | request's end          |
| `lane:L`, `lane:L:KIND` | zset   | ARQ's queue: job ids by dispatch sequence                | attempt's end          |
| `lane:L:state`          | hash   | provider, endpoint, models, limit, `offer`, `arq`;       | `sweep`, after 1 h     |
|                         |        | `seen`: last beat; `told`, `why`: state of its back end  |                        |
| `lane:L:health-check`,  | string | what `arq --check` shows                                 | after 6 s              |
| `lane:L:KIND:health-…`  |        |                                                          |                        |
| `lane:L:alone`          | string | id of the suspect that runs there alone, or for which    | attempt's end, or 2 s  |
|                         |        | the lane is being emptied                                |                        |
| `lane:L:workers`        | zset   | workers that take new work, by beat (ms)                 | `sweep`, SIGTERM       |
| `lanes`                 | zset   | lanes by last beat of one of their workers (ms)          | `sweep`, after 1 h     |
| `workers`, `routers`    | zset   | by beat (ms)                                             | `sweep`                |
| `worker:W`              | hash   | lane, host, versions, policy revision, newest error,     | after 3 leases         |
|                         |        | `report` (JSON), key ids, `told`, `why`                  |                        |
| `router:R`,             | string | policy revision by which it decides; internal errors     | after 6 s              |
| `router:R:survived`     |        | that its process has survived                            |                        |
| `clients`               | zset   | by beat (ms)                                             | `sweep`, leaving       |
| `client:C`, `agent:A`   | set    | live ids of a client, of an agent                        | request's end, `sweep` |
| `swept`                 | hash   | `at`: last sweep; `looked`: last sweep or client's beat; | stays                  |
|                         |        | `hold`: no lease lapses before                           |                        |
| `unwanted:ID`           | string | cancelled before it arrived, for a client or '' for all  | after 60 s             |
| `sequence`              | string | counts submissions and dispatches                        | stays                  |
| `drain:ROLE`            | hash   | last end `at`, `mean` ms between ends                    | 1 h past the last end  |
| `pulls`                 | hash   | by lane, JSON: models it pulls now, and how far          | lane's beat, `sweep`   |
| `unready`               | hash   | by lane: why it takes no work, `loading` or `down`       | lane's beat, `sweep`   |
| `rates:T`               | hash   | `ROLE:PRIORITY:WHAT`: requests accepted, ended in 10 s   | after 80 s             |
| `failed`                | stream | id, role, lane, code of the newest 1,000 failed          | stays                  |
| `key`                   | string | ids of the keys that seal the pool, newest first         | stays                  |
| `retiring`              | string | ids of keys that no longer seal, and open what waits     | when dropped           |
| `prepared`              | string | ids of keys that open, and do not seal yet               | when they seal         |
| `policy`                | hash   | `revision`, `document`, the fields scripts read          | stays                  |
| `rehearsal:NAME`        | each   | what `worker --check` tries commands on                  | at once                |
| `arq:job:{main}ID:N`    | string | ARQ's job; also its `arq:in-progress:` and `arq:retry:`  | attempt's end          |

Channels: `deltas:ID` (to the agent), `control:W` (to a worker), `doorbell` (to routers), `doorbell:L` and
`doorbell:L:KIND` (a job, to the lane's workers), `pulls:L` (a model to pull, to the same), `hub:NAME` (to nobody). The
scripts build the same names from the prefix.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenlane.config.settings.values import NAME_RULE, is_name
from tokenlane.routing.contract.kinds import queue_suffix


@dataclass(frozen=True)
class Keys:
    """The names of one pool in one Redis database.

    Raises:
        ValueError: this is no name for a pool.
    """

    pool: str = "main"
    database: int = 0

    def __post_init__(self) -> None:
        if not is_name(self.pool):
            raise ValueError(f"{self.pool!r} is not a pool's name: {NAME_RULE}")

    @property
    def tag(self) -> str:
        """The hash tag, e.g. `{main}`."""
        return f"{{{self.pool}}}"

    @property
    def prefix(self) -> str:
        """What every key starts with: the first and only key of each script."""
        return f"{self.tag}:"

    @property
    def channels(self) -> str:
        """What every channel starts with."""
        return f"{self.tag}:{self.database}:"

    @property
    def policy(self) -> str:
        return f"{self.prefix}policy"

    @property
    def deadlines(self) -> str:
        """All requests that have not ended."""
        return f"{self.prefix}deadlines"

    def request(self, request_id: str) -> str:
        return f"{self.prefix}request:{request_id}"

    def lane_queue(self, lane: str, kind: str = "chat") -> str:
        """ARQ's queue of a lane for one kind of work."""
        return f"{self.prefix}lane:{lane}{queue_suffix(kind)}"

    def rehearsal(self, name: str) -> str:
        """A key to try commands on."""
        return f"{self.prefix}rehearsal:{name}"

    def arq(self, name: str) -> str:
        """This pool's key for what ARQ calls `name`."""
        return f"{self.prefix}{name}"

    def deltas(self, request_id: str) -> str:
        return f"{self.channels}deltas:{request_id}"

    def control(self, worker: str) -> str:
        return f"{self.channels}control:{worker}"

    def hub(self, name: str) -> str:
        """A channel without messages: subscribing to it makes a hub's connection one for pub/sub."""
        return f"{self.channels}hub:{name}"

    @property
    def doorbell(self) -> str:
        """Rung when a router may have something to do."""
        return f"{self.channels}doorbell"

    def lane_pulls(self, lane: str) -> str:
        """Where routers name a model that a lane must pull."""
        return f"{self.channels}pulls:{lane}"

    def lane_doorbell(self, lane: str, kind: str = "chat") -> str:
        """Rung when a lane has a new job of that kind, with the job's id."""
        return f"{self.channels}doorbell:{lane}{queue_suffix(kind)}"
