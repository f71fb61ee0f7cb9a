"""All keys and channels of a pool, on one screen.

Every name starts with the pool's hash tag, `{main}:`, so a pool lives in one slot and its scripts are legal on Redis
Cluster. Pub/sub ignores the database number, so channel names carry it.

| key                     | type   | holds                                                | deleted by               |
| ----------------------- | ------ | ---------------------------------------------------- | ------------------------ |
| `role:R`                | stream | an entry a request: `envelope`, `payload`            | the request's end        |
| `request:ID`            | hash   | state, attempt, starts, crashes, lane, worker, times | expires 1 h past the end |
| `idem:A:KEY`            | string | id of the agent's request with that idempotency key  | expires with the request |
| `queues`                | set    | names of queues in which something waits             | last one leaving         |
| `queue:Q:agents`        | zset   | agents with something waiting, by fair tag           | last one leaving         |
| `queue:Q:agent:A`       | zset   | ids an agent has waiting, by order of submission     | last one leaving         |
| `queue:Q:paid`          | zset   | agents by finish tag, where later than the clock     | queue empty              |
| `queue:Q:clock`         | hash   | virtual time `clock`; `served`: `sequence` when last | queue empty              |
|                         |        | served, or when its first request was submitted      |                          |
| `turn:ROLE:KIND:PRIO`   | hash   | of a role's queues in which something waits: how     | last one leaving         |
|                         |        | many `queues`; `served`: `sequence` when it began to |                          |
|                         |        | wait, `served:LANE`: when its turn at a lane ended,  |                          |
|                         |        | `used:LANE`: served there since                      |                          |
| `leases`                | zset   | dispatched and running ids, by lapse of lease (ms)   | the attempt's end        |
| `delayed`               | zset   | ids that wait for a time, by that time (ms)          | `sweep`, the end         |
| `deadlines`             | zset   | ids by deadline (ms)                                 | the request's end        |
| `lane:L`, `lane:L:KIND` | zset   | ARQ's queue: job ids by dispatch sequence            | the attempt's end        |
| `lane:L:state`          | hash   | provider, endpoint, models, limit, `offer`: what     | stays                    |
|                         |        | it takes, `seen`: last beat, `arq`: where its        |                          |
|                         |        | workers look, `told`: the state that the last beat   |                          |
|                         |        | announced, and `why`                                 |                          |
| `lane:L:health-check`,  | string | what `arq --check` shows                             | itself, after 6 s        |
| `lane:L:KIND:health-…`  |        |                                                      |                          |
| `lane:L:alone`          | string | id of a suspect, a request under which workers died, | the attempt's end; 2 s   |
|                         |        | that runs on the lane alone, or for which the lane   | past a router's asking   |
|                         |        | is being emptied                                     |                          |
| `lane:L:workers`        | zset   | workers that take new work, by beat (ms)             | `sweep`, SIGTERM         |
| `lanes`                 | zset   | lanes by last beat of one of their workers (ms)      | `sweep`, after 1 h       |
| `workers`, `routers`    | zset   | by beat (ms)                                         | `sweep`                  |
| `worker:W`              | hash   | lane, host, versions, policy revision at its beat,   | itself, 3 leases past    |
|                         |        | code and time of its newest error, `report`: JSON    | its beat                 |
|                         |        | for those who watch, ids of its keys, `told` and     |                          |
|                         |        | `why` as above                                       |                          |
| `router:R`,             | string | policy revision by which it decides; internal errors | itself, after 3 s        |
| `router:R:survived`     |        | its process has survived, if any                     |                          |
| `clients`               | zset   | by beat (ms)                                         | `sweep`, leaving         |
| `client:C`, `agent:A`   | set    | live ids of a client, of an agent                    | the request's end; of a  |
|                         |        |                                                      | vanished client: `sweep` |
| `swept`                 | hash   | `at`: last sweep; `looked`: last sweep or client's   | stays                    |
|                         |        | beat; `hold`: no lease lapses before                 |                          |
| `unwanted:ID`           | string | cancelled before it came, by that client or, '', all | itself, after 60 s       |
| `sequence`              | string | counts submissions and dispatches                    | stays                    |
| `drain:ROLE`            | hash   | last end `at`, `mean` ms between ends                | 1 h past the role's last |
| `pulls`                 | hash   | by lane, JSON: models it pulls now, and how far      | its lane's beat          |
| `unready`               | hash   | by lane: what keeps it from taking work, `loading`   | its lane's beat; `sweep` |
|                         |        | or `down`                                            |                          |
| `rates:T`               | hash   | of 10 s: `ROLE:PRIORITY:WHAT`, requests accepted,    | itself, after 80 s       |
|                         |        | completed, failed, cancelled, expired                |                          |
| `failed`                | stream | id, role, lane, code of the newest 1,000 failed      | stays                    |
| `key`                   | string | ids of the keys that seal the pool, newest first     | stays                    |
| `retiring`              | string | ids of those that seal no more, and still open what  | stays until they are     |
|                         |        | waits                                                | dropped                  |
| `prepared`              | string | ids of those that do not seal yet, and open          | stays until they do      |
| `policy`                | hash   | `revision`, `document`, the fields scripts read      | stays                    |
| `rehearsal:NAME`        | each   | what `worker --check` tries commands on              | itself, at once          |
| `arq:job:{main}ID:N`    | string | ARQ's job; with `arq:in-progress:` and `arq:retry:`  | the attempt's end        |
|                         |        | of the same id. For a lane of workers that look for  |                          |
|                         |        | it without the prefix (no `arq` in its state): there | after a day              |

Channels: `deltas:ID` (to the agent), `control:W` (to a worker), `doorbell` (to routers), `doorbell:L` and
`doorbell:L:KIND` (to the lane's workers: a job), `pulls:L` (of models, to the
same), `hub:NAME` (to nobody). The scripts build the same names from the prefix: a change here is a change there.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenlane.config.settings.values import NAME_RULE, is_name
from tokenlane.routing.contract.kinds import queue_suffix


@dataclass(frozen=True)
class Keys:
    """The names of one pool in one Redis database.

    Raises:
        ValueError: the pool's name is none.
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
        """What every key starts with; the first and only key scripts are given."""
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
        """For trying commands on."""
        return f"{self.prefix}rehearsal:{name}"

    def arq(self, name: str) -> str:
        """What ARQ calls `name` everywhere: a name of this pool's."""
        return f"{self.prefix}{name}"

    def deltas(self, request_id: str) -> str:
        return f"{self.channels}deltas:{request_id}"

    def control(self, worker: str) -> str:
        return f"{self.channels}control:{worker}"

    def hub(self, name: str) -> str:
        """A hub's own, on which nothing is said: its connection is one for pub/sub from the start."""
        return f"{self.channels}hub:{name}"

    @property
    def doorbell(self) -> str:
        """Rung when a router may have something to do."""
        return f"{self.channels}doorbell"

    def lane_pulls(self, lane: str) -> str:
        """Where routers say which model a lane is to pull."""
        return f"{self.channels}pulls:{lane}"

    def lane_doorbell(self, lane: str, kind: str = "chat") -> str:
        """Rung when a lane has a new job of that kind; says the job's id."""
        return f"{self.channels}doorbell:{lane}{queue_suffix(kind)}"
