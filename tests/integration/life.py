"""The life of a request for tests: bring one into any state, let time pass, and audit what the server holds."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeVar, cast

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from tests.lanes import chats

from tokenlane.routing.carry_out_recovery import recover
from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.envelope import Envelope, Needs, Quota
from tokenlane.routing.contract.errors import ModelNotFound
from tokenlane.routing.contract.kinds import queue_suffix
from tokenlane.routing.contract.messages import Completed
from tokenlane.routing.contract.wire import Priority, new_id
from tokenlane.routing.decide.lanes.offer import Announcement, Running, WorkerInfo
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.decide.role_fairness import Head
from tokenlane.routing.store.beats import SweepReply
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.request_life import Ending

T = TypeVar("T")

PREFIX: Final = "{main}:"
CLOCK: Final = "clock"
"""The key of the clock in tests/store/stopped_clock.py."""
ROLE, AGENT, CLIENT, WORKER, ROUTER = "planner", "agent1", "client1", "worker1", "host/router1"
LANE = Announcement(lane="lane1", provider="sim", endpoint="http://gpu1:8080", models=("m1", "m2"), offer=chats(2))
PAYLOAD = b'{"messages":[]}'

FACTS = WorkerInfo("gpu1", {"tokenlane": "0.1.0", "arq": "0.28.0"})

LIVE = ("waiting", "delayed", "dispatched", "running")
ENDED = ("completed", "failed", "cancelled", "expired")

# Hashes, sets and streams as Python values; only tests look at Redis this way.
Dump = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A request as the tests know it."""

    id: str
    attempt: int = 0
    worker: str = WORKER


def raw(pool: Pool) -> Any:
    """A client over the pool's connections, untyped: in redis-py's types every command may or may not be awaitable."""
    return Redis(connection_pool=pool.commands.connections)


def envelope(
    request_id: str | None = None,
    *,
    role: str = ROLE,
    agent: str = AGENT,
    client: str = CLIENT,
    priority: Priority = "normal",
    model: str | None = None,
    time_to_live_ms: int = 600_000,
    quota: Quota | None = None,
) -> Envelope:
    """An envelope, of which only the id differs from the next one's."""
    return Envelope(
        id=request_id or new_id(),
        client=client,
        agent=agent,
        role=role,
        priority=priority,
        needs=Needs(model=model, size=64),
        time_to_live_ms=time_to_live_ms,
        quota=quota,
    )


async def submit(pool: Pool, of: Envelope | None = None, floor: int = 0) -> str:
    """Submit a request; its id."""
    of = of or envelope()
    await pool.requests.submit(of, PAYLOAD, floor)
    return of.id


async def beat(pool: Pool, worker: str = WORKER, lane: Announcement = LANE, *running: Running) -> tuple[str, ...]:
    """Send a beat of a worker that accepts new work, and return the attempts that it holds."""
    return (await pool.beats.renew(worker, lane, running, accepts_new_work=True)).outcomes


async def open_lane(pool: Pool) -> None:
    """Let the lane accept work. Changes nothing if it does already."""
    if await raw(pool).zscore(f"{PREFIX}lane:{LANE.lane}:workers", WORKER) is None:
        await beat(pool)


async def head(pool: Pool, request_id: str) -> Head:
    """The request as the head of its queue, whether it is or not."""
    fields = await raw(pool).hmget(f"{PREFIX}request:{request_id}", ["queue", "agent", "attempt"])
    queue, agent, attempt = (value.decode() for value in fields)
    return Head(Queue.parse(queue), agent, request_id, int(attempt), more=False, served=0, waited_ms=0)


async def dispatch(pool: Pool, request_id: str, lane: str = LANE.lane, token: str | None = None) -> int | None:
    """Give a request to a lane; the attempt's number if it was."""
    return await pool.requests.dispatch(await head(pool, request_id), lane, "m1", token or new_id())


async def dispatched(pool: Pool, request_id: str | None = None) -> Asked:
    """A request that a lane has been given."""
    request_id = request_id or await submit(pool)
    await open_lane(pool)
    attempt = await dispatch(pool, request_id)
    assert attempt is not None
    return Asked(request_id, attempt)


async def running(pool: Pool, request_id: str | None = None) -> Asked:
    """A request that a worker runs."""
    asked = await dispatched(pool, request_id)
    assert await pool.requests.start(asked.id, asked.attempt, WORKER) is not None
    return asked


async def bring(pool: Pool, state: str) -> Asked:
    """A request in that state; a lane is there too."""
    if state == "waiting":
        await open_lane(pool)
        return Asked(await submit(pool))
    if state == "dispatched":
        return await dispatched(pool)
    asked = await running(pool)
    if state == "delayed":
        assert await pool.requests.requeue(asked.id, asked.attempt, WORKER, due_ms=60_000) == "delayed"
    elif state == "flagged":
        assert await pool.requests.cancel(asked.id) == "flagged"
    elif state == "lapsed":
        await pass_lease(pool, asked.id)
        await watched(pool)
    elif state == "requeued":
        assert await pool.requests.requeue(asked.id, asked.attempt, WORKER) == "waiting"
    elif state in ENDED:
        assert await finish(pool, asked, cast("Ending", state))
    return asked


async def finish(pool: Pool, asked: Asked, ending: Ending = "completed") -> bool:
    """End a running request, as its worker."""
    reply = await pool.requests.finish(
        asked.id, asked.attempt, asked.worker, ending, 3, "", ended_message(asked.attempt)
    )
    return reply is not None


def ended_message(attempt: int) -> bytes:
    """What a worker tells the agent at the end."""
    return Completed(attempt=attempt, worker=WORKER, lane="lane1", model="m1", first=3, end=3, usage=Usage()).to_wire()


REFUSAL = ModelNotFound("nobody has it")
"""What a router tells the agent of a request that no lane can serve."""


def hold(asked: Asked, left_ms: int = 60_000) -> Running:
    """The request as its worker holds it."""
    return Running(asked.id, asked.attempt, CLIENT, AGENT, ROLE, "chat", left_ms)


async def state_of(pool: Pool, request_id: str) -> str:
    """The request's state, as a client is told it."""
    (status,) = (await pool.beats.check(CLIENT, [request_id])).statuses
    return status.state


# Time passes where the server keeps it.


async def watched(pool: Pool) -> None:
    """The pool has been looked at all the time: leases lapse at once, lanes are audited."""
    seconds, micros = await raw(pool).time()
    mapping = {"looked": int(seconds) * 1000 + int(micros) // 1000, "hold": 0, "audited": 0}
    await raw(pool).hset(f"{PREFIX}swept", mapping=mapping)


async def sweep(pool: Pool, router: str = ROUTER) -> SweepReply:
    """A sweep, as a router makes one, of a pool that has been swept all the time."""
    await watched(pool)
    swept = await pool.beats.sweep(router)
    await recover(pool, swept.lapsed)
    return swept


async def pass_lease(pool: Pool, request_id: str) -> None:
    """The request's lease is over."""
    await raw(pool).zadd(f"{PREFIX}leases", {request_id: 1}, xx=True)


async def pass_delay(pool: Pool, request_id: str) -> None:
    """The request's delay is over."""
    await raw(pool).zadd(f"{PREFIX}delayed", {request_id: 1}, xx=True)


async def pass_deadline(pool: Pool, request_id: str) -> None:
    """The request's deadline is over."""
    await raw(pool).hset(f"{PREFIX}request:{request_id}", "deadline", "1")
    await raw(pool).zadd(f"{PREFIX}deadlines", {request_id: 1}, xx=True)


async def vanish(pool: Pool, client: str = CLIENT) -> None:
    """The client has been silent for longer than the orphan timeout."""
    await raw(pool).zadd(f"{PREFIX}clients", {client: 1}, xx=True)


# What is published.


class Ear:
    """Hears all channels of a pool. Get one with `listen`."""

    def __init__(self, pubsub: PubSub) -> None:
        self._pubsub = pubsub

    async def heard(self) -> list[tuple[str, dict[str, Any]]]:
        """All messages published so far and not heard before: channel without its prefix, and content."""
        messages: list[tuple[str, dict[str, Any]]] = []
        await self._pubsub.ping()
        while True:
            message = await self._pubsub.get_message(timeout=5)
            assert message is not None, "the server does not answer"
            if message["type"] == "pong":
                return messages
            if message["type"] == "pmessage":
                channel = re.sub(r"^\{main}:\d+:", "", message["channel"].decode())
                rings = channel.startswith("doorbell")  # and may name a job
                messages.append((channel, {} if rings else json.loads(message["data"])))

    async def told(self, request_id: str) -> list[str]:
        """The types of the messages to the request's agent."""
        return [content["type"] for channel, content in await self.heard() if channel == f"deltas:{request_id}"]


@asynccontextmanager
async def listen(pool: Pool) -> AsyncIterator[Ear]:
    """Hear what is published from now on."""
    async with raw(pool).pubsub() as pubsub:
        await pubsub.psubscribe(f"{PREFIX}*")
        ear = Ear(pubsub)
        await ear.heard()  # the server has subscribed it
        yield ear


# What the server holds.

_TABLE: Final = {
    r"role:[^:]+": "stream",
    r"request:[0-9a-f]{32}": "hash",
    r"idem:[^:]+:[0-9a-f]+": "string",
    r"queues|drained|paused": "set",
    r"queue:.+:agents": "zset",
    r"queue:.+:agent:[^:]+": "zset",
    r"queue:.+:paid": "zset",
    r"queue:.+:clock": "hash",
    r"turn:[^:]+:[^:]+:[^:]+": "hash",
    r"leases|delayed|deadlines|lanes|workers|routers|clients": "zset",
    r"lane:[^:]+(:embed|:command)?": "zset",
    r"lane:[^:]+(:embed|:command)?:health-check": "string",
    r"lane:[^:]+:state": "hash",
    r"lane:[^:]+:workers": "zset",
    r"(client|agent):[^:]+|agent:[^:]+:quota": "set",
    r"swept|drain:[^:]+|policy|retries": "hash",
    r"worker:[^:]+|rates:\d+": "hash",
    r"router:[^:]+(:survived)?": "string",
    r"sequence|key": "string",
    r"lane:[^:]+:alone": "string",
    r"unwanted:[0-9a-f]{32}": "string",
    r"failed": "stream",
    r"kept": "zset",
    r"kept:[0-9a-f]{32}": "hash",
}
_ARQ: Final = r"\{main}:arq:(job|in-progress|retry):\{main}[0-9a-f]{32}:\d+"
_BEATS: Final = re.compile(r"lanes|workers|routers|clients|lane:[^:]+:workers|swept")
_NUMBERS: Final = ("attempt", "seq", "created", "deadline", "starts", "crashes", "started", "ended", "requeued", "end")


_DUMP: Final = """
local READ = { string = { 'GET' }, hash = { 'HGETALL' }, set = { 'SMEMBERS' }, stream = { 'XRANGE', '-', '+' },
  zset = { 'ZRANGE', 0, -1, 'WITHSCORES' } }
local held = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key).ok
  local read = READ[kind]
  if read then -- it has not expired
    held[#held + 1] = { key, redis.call('PTTL', key), kind, redis.call(read[1], key, unpack(read, 2)) }
  end
end
return held
"""


async def dump(redis: Redis) -> Dump:
    """All that the server holds, but for a test's clock: key to its value; TTLs as `ttl KEY`."""
    held: Dump = {}
    for key, ttl, kind, value in await cast("Awaitable[list[Any]]", redis.eval(_DUMP, 0)):
        held[key.decode()] = _value(kind, value)
        if ttl >= 0:
            held[f"ttl {key.decode()}"] = True
    held.pop(CLOCK, None)
    return held


async def snapshot(redis: Redis, *, leases: bool = True) -> Dump:
    """`dump` without the times of beats, and without those of leases if not wanted: what a refused call must keep."""
    held = await dump(redis)
    for key, value in held.items():
        name = key.removeprefix(PREFIX)
        if _BEATS.fullmatch(name) or (name == "leases" and not leases):
            held[key] = sorted(value)
        elif name.endswith(":state"):
            held[key] = {field: text for field, text in value.items() if field != "seen"}
        elif name.startswith("worker:"):
            held[key] = {field: text for field, text in value.items() if field != "error_at"}
    return held


def _value(kind: bytes, value: Any) -> object:
    match kind:
        case b"hash":
            return dict(_pairs([part.decode(errors="replace") for part in value]))  # some are sealed
        case b"zset":
            return {member.decode(): float(score) for member, score in _pairs(value)}
        case b"set":
            return {member.decode() for member in value}
        case b"stream":
            return {entry.decode(): {name.decode(): text for name, text in _pairs(fields)} for entry, fields in value}
        case _:
            return value.decode()


def _pairs(flat: list[T]) -> Iterator[tuple[T, T]]:
    return zip(flat[::2], flat[1::2], strict=True)


async def audit(redis: Redis) -> dict[str, str]:
    """Assert that the whole key space is as the table in `keys` says; the state of every request."""
    held = await dump(redis)
    _only_known_keys(held)
    requests = {key.rpartition(":")[2]: value for key, value in _under(held, "request:")}
    for request_id, request in requests.items():
        _sound(request_id, request, f"ttl {PREFIX}request:{request_id}" in held)
    live = {request_id: request for request_id, request in requests.items() if request["state"] in LIVE}
    _places(held, live)
    _queues(held, live)
    _lanes(held, live)
    _memberships(held, live)
    _failures(held, requests)
    return {request_id: request["state"] for request_id, request in requests.items()}


def _only_known_keys(held: Dump) -> None:
    kinds: dict[type[Any], tuple[str, ...]] = {dict: ("hash", "zset", "stream"), set: ("set",), str: ("string",)}
    for key, value in held.items():
        if key.startswith("ttl ") or re.fullmatch(_ARQ, key):
            continue
        assert key.startswith(PREFIX), key
        assert _kind_of(key.removeprefix(PREFIX)) in kinds[type(value)], key


@lru_cache(maxsize=4096)
def _kind_of(name: str) -> str | None:
    """The type of the key, as the table has it; None for a key that it does not have."""
    return next((kind for pattern, kind in _TABLE.items() if re.fullmatch(pattern, name)), None)


def _sound(request_id: str, request: Mapping[str, str], has_ttl: bool) -> None:
    state = request["state"]
    for number in _NUMBERS:
        assert re.fullmatch(r"\d+", request.get(number, "0")), (request_id, number, request[number])
    assert has_ttl == (state in ENDED), (request_id, state, has_ttl)
    history = [json.loads(line) for line in request.get("history", "").split("\n") if line]
    assert len(history) <= 16
    assert all(re.fullmatch(r"[a-z_]+", code) for *_, code in history), history
    assert ("requeued" in request) == bool(history)
    attempt_fields = {"token", "charge", "alone"} & request.keys()
    if state in ENDED:
        assert {"ended", "code"} <= request.keys()
        assert not attempt_fields | ({"cancel"} & request.keys()), request
    elif state in ("waiting", "delayed"):
        assert not attempt_fields | ({"worker", "cancel"} & request.keys()), request
    else:
        assert "lane" in request
        assert ("worker" in request) == (state == "running"), request


def _places(held: Dump, live: Mapping[str, Mapping[str, str]]) -> None:
    def ids(*states: str) -> set[str]:
        return {request_id for request_id, request in live.items() if request["state"] in states}

    assert set(held.get(f"{PREFIX}leases", ())) == ids("dispatched", "running")
    assert set(held.get(f"{PREFIX}delayed", ())) == ids("delayed")
    deadlines = {request_id: float(request["deadline"]) for request_id, request in live.items()}
    kept = held.get(f"{PREFIX}deadlines", {})
    flagged = {request_id for request_id, request in live.items() if "cancel" in request}
    assert kept.items() <= deadlines.items()
    assert set(deadlines) - set(kept) <= flagged
    entries = {
        (request["role"], request["entry"]): request_id for request_id, request in live.items() if request["entry"]
    }
    streams = {
        (key.rpartition(":")[2], entry): json.loads(fields["envelope"])["id"]
        for key, stream in _under(held, "role:")
        for entry, fields in stream.items()
    }
    assert streams == entries


def _queues(held: Dump, live: Mapping[str, Mapping[str, str]]) -> None:
    waiting: dict[str, dict[str, float]] = defaultdict(dict)
    agents: dict[str, set[str]] = defaultdict(set)
    for request_id, request in live.items():
        if request["state"] == "waiting":
            waiting[f"{request['queue']}:agent:{request['agent']}"][request_id] = float(request["seq"])
            agents[request["queue"]].add(request["agent"])
    kept = {key.removeprefix(f"{PREFIX}queue:"): value for key, value in _under(held, "queue:")}
    assert {name: value for name, value in kept.items() if ":agent:" in name} == waiting
    assert {
        name.removesuffix(":agents"): set(value) for name, value in kept.items() if name.endswith(":agents")
    } == agents
    assert held.get(f"{PREFIX}queues", set()) == set(agents)
    assert {name.removesuffix(":clock") for name in kept if name.endswith(":clock")} == set(agents)
    assert {name.removesuffix(":paid") for name in kept if name.endswith(":paid")} <= set(agents)
    turns = {key.removeprefix(f"{PREFIX}turn:"): int(value["queues"]) for key, value in _under(held, "turn:")}
    assert turns == Counter(":".join(queue.split(":")[:3]) for queue in agents)
    for queue in agents:
        clock, paid = float(kept[f"{queue}:clock"].get("clock", 0)), kept.get(f"{queue}:paid", {})
        assert all(tag > clock for tag in paid.values()), (clock, paid)
        for agent, tag in kept[f"{queue}:agents"].items():
            assert tag <= max(clock, paid.get(agent, 0)), (agent, tag, clock, paid)


def _lanes(held: Dump, live: Mapping[str, Mapping[str, str]]) -> None:
    jobs: dict[str, set[str]] = defaultdict(set)
    known: set[str] = set()
    for request_id, request in live.items():
        if request["state"] in ("dispatched", "running"):
            job = f"{{main}}{request_id}:{request['attempt']}"
            jobs[request["lane"] + queue_suffix(request["kind"])].add(job)
            if request["entry"]:
                known.add(job)
                content = json.loads(held[f"{PREFIX}arq:job:{job}"])
                assert (content["f"], content["a"]) == ("run_request", [request_id, int(request["attempt"])])
    queue = re.compile(rf"{PREFIX}lane:([^:]+(:embed|:command)?)")
    queues = {match[1]: set(held[key]) for key in held if (match := queue.fullmatch(key))}
    assert queues == jobs
    assert {key.partition("arq:job:")[2] for key in held if "arq:job:" in key} == known
    everything = {job for lane in jobs.values() for job in lane}
    assert {key.split(":", 3)[3] for key in held if key.startswith(f"{PREFIX}arq:")} <= everything


def _memberships(held: Dump, live: Mapping[str, Mapping[str, str]]) -> None:
    flagged = {request_id for request_id, request in live.items() if "cancel" in request}
    for role in ("agent", "client"):
        wanted: dict[str, set[str]] = defaultdict(set)
        for request_id, request in live.items():
            wanted[request[role]].add(request_id)
        kept = {key.rpartition(":")[2]: value for key, value in _under(held, f"{role}:") if not key.endswith(":quota")}
        assert all(kept[name] <= wanted[name] for name in kept), role
        missing = {request_id for name in wanted for request_id in wanted[name] - kept.get(name, set())}
        assert missing <= (flagged if role == "client" else set()), role
    quotas: dict[str, set[str]] = defaultdict(set)
    for request_id, request in live.items():
        if "quota" in request:
            quotas[request["quota"]].add(request_id)
    assert {key.split(":")[-2]: value for key, value in _under(held, "agent:") if key.endswith(":quota")} == quotas
    watched = {request["client"] for request_id, request in live.items() if request_id not in flagged}
    assert watched <= set(held.get(f"{PREFIX}clients", ()))


def _failures(held: Dump, requests: Mapping[str, Mapping[str, str]]) -> None:
    failed = {request_id for request_id, request in requests.items() if request["state"] == "failed"}
    listed = {entry: fields["id"].decode() for entry, fields in held.get(f"{PREFIX}failed", {}).items()}
    entries = {request["failure"]: request_id for request_id, request in requests.items() if "failure" in request}
    assert entries.items() <= listed.items()
    assert set(entries.values()) <= failed
    kept = {key.rpartition(":")[2]: value for key, value in _under(held, "kept:")}
    assert set(kept) == set(held.get(f"{PREFIX}kept", ())) <= failed
    for request_id, fields in kept.items():
        assert fields.keys() == {"envelope", "payload"}
        assert json.loads(fields["envelope"])["key_id"]
        assert f"ttl {PREFIX}kept:{request_id}" in held


def _under(held: Dump, start: str) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in held.items() if key.startswith(f"{PREFIX}{start}"))
