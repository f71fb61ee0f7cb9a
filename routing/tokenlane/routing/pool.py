"""The pool: one method per script, typed replies.

The only code that issues Redis commands on the pool's keys. What a script does is said in `lua/`; here is only how it
is called and what comes back. Every method may be retried: a script sent twice answers as it did the first time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Literal, cast, get_args

from pydantic import TypeAdapter, ValidationError
from redis import exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from tokenlane.config.exits import ConfigError
from tokenlane.config.poolkey import KeyRing, PoolKey, beside
from tokenlane.config.values import masked

from .errors import Duplicate, LlmError, PoolKeyMismatch, PoolUnavailable, QueueFull, RequestLost
from .keys import Keys
from .lanes import Announcement, Facts, Fault, Hits, LaneView, Offer
from .messages import Envelope, Progress
from .policy import Policy, PolicyChanged
from .queues import Head, Queue
from .seal import fingerprint, seal, unseal
from .watch.snapshot import Snapshot, read_snapshot

__all__ = [
    "Accepted",
    "Attachment",
    "Beat",
    "Checked",
    "Ending",
    "Hold",
    "Pool",
    "Running",
    "Standing",
    "Started",
    "State",
    "Survey",
    "Swept",
    "connect",
    "open_redis",
]

logger = logging.getLogger(__name__)

Ending = Literal["completed", "failed", "cancelled", "expired"]
State = Literal["missing", "waiting", "delayed", "dispatched", "running", "completed", "failed", "cancelled", "expired"]
Hold = Literal["mine", "stale", "cancelled", "expired"]

_Reply = list["_Reply"] | bytes | int | None
_RULES = ("depth", "in_flight", "start_lease_ms", "lease_ms", "orphan_ms", "max_crashes")
_ALONE = ("publish",)
"""Scripts that use nothing of common.lua, which costs this one more than what it does."""
_COMMAND_TIMEOUT_S = 5.0
_pulls: TypeAdapter[dict[str, Progress]] = TypeAdapter(dict[str, Progress])
_CONNECTION_ERRORS = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError)


@dataclass(frozen=True)
class Accepted:
    """The request is in its role's stream. `id`: the request's, or that of the one that has its idempotency key and has
    not ended. `revision`: the policy's."""

    id: str
    revision: int


@dataclass(frozen=True)
class Started:
    """What a worker is given to run. `starts`: how often the request was started, this time included.

    `payload` is as the agent sealed it: `Pool.unseal` opens it.
    """

    attempt: int
    envelope: Envelope
    payload: bytes
    model: str
    starts: int
    left_ms: int
    waited_ms: int
    cancelled: bool


@dataclass(frozen=True)
class Running:
    """A request a worker runs, with what the server needs to know it again should it have forgotten it."""

    id: str
    attempt: int
    client: str
    agent: str
    role: str
    kind: str
    left_ms: int


@dataclass(frozen=True)
class Beat:
    """The answer to a worker's beat. `conflict`: the endpoint that holds the lane's name, if it is another one.

    `registered`: the server has the worker's facts.
    """

    conflict: str | None
    lease_ms: int
    holds: tuple[Hold, ...]
    registered: bool = True


@dataclass(frozen=True)
class Standing:
    """How a request stands. `end`: how many deltas its answer has, once it has ended. `owner`: the client that keeps it
    alive; '' where the server has learnt of the request from its worker only."""

    state: State
    attempt: int
    worker: str
    end: int | None
    code: str
    owner: str


@dataclass(frozen=True)
class Attachment:
    """How a request stands that a client has taken over, and what that client must know of it."""

    standing: Standing
    role: str
    left_ms: int


@dataclass(frozen=True)
class Checked:
    """The answer to a client's beat. `away`: the lanes seen last that are not there now, with milliseconds since.
    `pulls`: by lane, the models it pulls now."""

    routers: int
    lanes: int
    away: tuple[tuple[str, int], ...]
    pulls: Mapping[str, Mapping[str, Progress]]
    standings: tuple[Standing, ...]


@dataclass(frozen=True)
class Swept:
    """What a sweep did. Ranks 0 and 1 sweep, the others only ask for their rank."""

    rank: int
    more: bool
    requeued: int
    revived: int
    expired: int
    orphaned: int


@dataclass(frozen=True)
class Survey:
    """What routers decide on, all of one moment."""

    now_ms: int
    revision: int
    heads: tuple[Head, ...]
    lanes: tuple[LaneView, ...]


class Pool:
    """A connected pool. Get one with `connect`.

    All methods raise `PoolUnavailable` when the server does not answer, and `QueueFull` when it has no memory left.
    """

    def __init__(self, redis: Redis, keys: Keys, url: str) -> None:
        self.redis = redis
        self.keys = keys
        self.url = url
        self._ring = KeyRing()
        self._announced: tuple[str, ...] = ()
        self._scripts = {name: _source(name, keys.database) for name in _script_names()}
        self._shas = {name: hashlib.sha1(text.encode()).hexdigest() for name, text in self._scripts.items()}

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        """The pool for people, where messages name it."""
        return f"pool {self.keys.pool!r} at {masked(self.url)}"

    # The life of a request.

    async def submit(self, envelope: Envelope, payload: bytes, floor: int = 0) -> Accepted:
        """Take a request in.

        Args:
            envelope: what routers read.
            payload: the rest; it is sealed here, under the newest key that the pool and the agent have.
            floor: the newest attempt the agent has seen, when a lost request is sent again.

        Raises:
            Duplicate: the agent has submitted the idempotency key before, and that request has ended.
            QueueFull: the role or the agent has too many requests, or the server no memory.
            PoolKeyMismatch: the pool's keys have changed, and none of them is the agent's.
        """
        queue = Queue.of(envelope)
        while True:
            key = self._sealing()
            if key is not None:
                envelope = envelope.model_copy(update={"key_id": key.id})
            reply = await self._run(
                "submit",
                *(envelope.id, envelope.role, queue.name, envelope.agent, envelope.client, envelope.kind),
                *(envelope.time_to_live_ms, floor, envelope.to_wire()),
                *(payload if key is None else seal(payload, envelope.id, key), envelope.key_id or ""),
                envelope.idempotency or "",
            )
            outcome, *rest = _list(reply)
            if _text(outcome) != "key":
                break
            self._learn(_text(rest[0]))
            if self._sealing() in (None, key):
                raise self._mismatch()
        if _text(outcome) == "accepted":
            self._learn(_text(rest[1]))
            return Accepted(envelope.id, _int(rest[0]))
        if _text(outcome) == "known":
            revision, known, state = rest
            if _text(state) in get_args(Ending):
                raise _duplicate(_text(known), _text(state))
            return Accepted(_text(known), _int(revision))
        whose = f"role {envelope.role!r}" if _text(rest[0]) == "role" else f"agent {envelope.agent!r}"
        seconds = _int(rest[1]) / 1000
        raise QueueFull(f"{whose} has too many requests: send again in {seconds:.1f} s", retry_after_s=seconds)

    @property
    def key(self) -> PoolKey | None:
        """The key that seals what is sent from here; None in a pool without one."""
        return self._sealing()

    def fingerprint(self, idempotency_key: str) -> str:
        """What an idempotency key is called on the server."""
        return fingerprint(idempotency_key, self._sealing())

    async def dispatch(self, head: Head, lane: str, model: str, token: str) -> int | None:
        """Give the request to the lane; the attempt's number, or None if that was not possible any more."""
        reply = await self._run("dispatch", head.id, head.queue.name, head.agent, lane, model, token, "")
        outcome, *rest = _list(reply)
        return _int(rest[0]) if _text(outcome) == "dispatched" else None

    async def dispatch_and_start(self, head: Head, lane: str, model: str, token: str, worker: str) -> Started | None:
        """Give the request to the lane and have one of its workers start it, or None if that was not possible."""
        return _started(await self._run("dispatch", head.id, head.queue.name, head.agent, lane, model, token, worker))

    async def start(self, request_id: str, attempt: int, worker: str, *, marked: bool = False) -> Started | None:
        """Claim an attempt; None if it is not to be run any more, or by another.

        Args:
            marked: the worker has ARQ's mark on the job.
        """
        return _started(await self._run("start", request_id, attempt, worker, int(marked)))

    async def renew(
        self,
        worker: str,
        lane: Announcement,
        running: Sequence[Running],
        *,
        takes_new_work: bool,
        fault: Fault | None = None,
        hits: Hits | None = None,
    ) -> Beat:
        """A worker's beat: announces its lane, and renews the leases of all it runs.

        Args:
            fault: the newest error of its back end, until an answer says that the worker is registered.
            hits: of its cache of vectors, if it has one.
        """
        told = (fault.code, int(1000 * (asyncio.get_running_loop().time() - fault.at))) if fault else ("", 0)
        counted = (hits.found, hits.asked) if hits else (0, 0)
        held = [
            part
            for one in running
            for part in (one.id, one.attempt, one.client, one.agent, one.role, one.kind, one.left_ms)
        ]
        reply = await self._run(
            "renew",
            *(worker, lane.lane, int(takes_new_work), lane.provider, lane.endpoint, json.dumps(lane.models)),
            *(lane.limit, lane.offer.model_dump_json(), *told, *counted, *held),
        )
        status, endpoint, lease_ms, registered, *holds = _list(reply)
        conflict = _text(endpoint) if _text(status) == "conflict" else None
        return Beat(conflict, _int(lease_ms), tuple(cast("Hold", _text(it)) for it in holds), _int(registered) == 1)

    async def register(self, worker: str, lane: str, facts: Facts) -> None:
        """Say what does not change while a worker lives, for those who watch the pool."""
        await self._run("register", worker, lane, facts.host, json.dumps(dict(facts.versions)))

    async def requeue(self, request_id: str, attempt: int, worker: str, due_ms: int = 0) -> str:
        """Give an attempt back; the state the request is in now, or `stale`."""
        return _text(await self._run("requeue", request_id, attempt, worker, due_ms))

    async def finish(
        self, request_id: str, attempt: int, worker: str, ending: Ending, end: int, code: str, message: bytes
    ) -> bool:
        """End a request, and tell its agent; False if the attempt is no longer the worker's.

        Raises:
            RequestLost: the server has forgotten the request; once the worker has beaten, it is known again.
        """
        reply = _text(await self._run("finish", request_id, attempt, worker, ending, end, code, message))
        if reply == "unknown":
            raise RequestLost("the server was wiped while the request ran")
        return reply == "done"

    async def refuse(self, request_id: str, code: str, message: bytes) -> bool:
        """Fail a request that waits; False if it no longer does."""
        return _text(await self._run("finish", request_id, "", "", "failed", 0, code, message)) == "done"

    async def cancel(self, request_id: str, leaving: str = "") -> str:
        """Cancel a request: `cancelled` at once, `flagged` for its worker, `ended` before, `unknown`, or `kept`.

        Args:
            leaving: the client that has no more use for it; the request is `kept` if another client owns it.
        """
        return _text(await self._run("cancel", request_id, leaving))

    async def attach(self, client: str, request_id: str) -> Attachment:
        """Make the client the request's owner; how it stands, `missing` if the server does not know it."""
        *parts, role, left_ms = _list(await self._run("attach", client, request_id))
        return Attachment(_standing(parts), _text(role), _int(left_ms))

    async def sweep(self, router: str, *, rank_only: bool = False, revision: int | None = None) -> Swept:
        """Look after leases, delays, deadlines and vanished clients.

        Args:
            router: `host/name`.
            rank_only: only ask for the rank.
            revision: of the policy by which the router decides; None if it decides nothing.
        """
        decides_by = "" if revision is None else revision
        rank, more, requeued, revived, expired, orphaned = _list(
            await self._run("sweep", router, 0 if rank_only else 1, decides_by)
        )
        return Swept(_int(rank), _int(more) == 1, _int(requeued), _int(revived), _int(expired), _int(orphaned))

    async def check(self, client: str, request_ids: Sequence[str] = ()) -> Checked:
        """A client's beat, and how those of its streams stand that it asks for (128 at most)."""
        routers, lanes, away, pulls, *standings = _list(await self._run("check", client, *request_ids))
        return Checked(
            routers=_int(routers),
            lanes=_int(lanes),
            away=tuple((_text(name), _int(ms)) for name, ms in map(_list, _list(away))),
            pulls={_text(lane): _pulls.validate_json(_bytes(told)) for lane, told in map(_list, _list(pulls))},
            standings=tuple(_standing(_list(standing)) for standing in standings),
        )

    async def survey(self) -> Survey:
        """Read the heads of all queues, and all lanes."""
        now_ms, revision, heads, lanes = _list(await self._run("survey"))
        return Survey(
            _int(now_ms),
            _int(revision),
            tuple(head for head in (_head(_list(reply)) for reply in _list(heads)) if head is not None),
            tuple(_lane(_list(lane)) for lane in _list(lanes)),
        )

    async def snapshot(self) -> Snapshot:
        """All that operators look at, of one moment."""
        return read_snapshot(self.keys.pool, await self._run("snapshot"))

    async def ask_server(self, *command: str) -> object | None:
        """What the server says to a command that touches no keys, as INFO; None if it lets this user not ask."""
        async with _asking(self.url):
            try:
                answer: object = await _command(self.redis, *command)
                return answer
            except redis_errors.ResponseError:
                return None

    # The rest.

    async def leave(self, client: str) -> None:
        """Forget a client; what it still holds is cancelled by the next sweep."""
        await self._run("leave", client)

    async def policy(self) -> Policy:
        """The pool's policy; the default with revision 0 if none was written.

        Raises:
            PoolUnavailable: also if what is stored is none that this version can read.
        """
        async with _asking(self.url):
            revision, document = _list(await _command(self.redis, "HMGET", self.keys.policy, "revision", "document"))
        if document is None:
            return Policy()
        try:
            policy = Policy.model_validate_json(_bytes(document))
        except ValidationError as error:
            wrong = ", ".join(".".join(map(str, part["loc"])) for part in error.errors())
            raise PoolUnavailable(
                f"pool {self.keys.pool!r} has a policy that this version cannot read ({wrong}): write it anew"
            ) from None
        return policy.model_copy(update={"revision": int(_text(revision))})

    async def set_policy(self, policy: Policy, *, expected: int | None = None) -> int:
        """Write the pool's policy; its revision, a new one unless it was there already.

        Args:
            expected: write only if the pool's policy has this revision.

        Raises:
            PolicyChanged: it has another one.
        """
        fields = {rule: getattr(policy, rule) for rule in _RULES}
        for name, role in policy.roles.items():
            limits = role.limits.model_dump(exclude_none=True)
            fields |= {f"{limit}:{name}": value for limit, value in limits.items()}
        outcome, revision = _list(
            await self._run(
                "set_policy",
                "" if expected is None else expected,
                policy.model_dump_json(exclude={"revision"}),
                *(str(part) for field in fields.items() for part in field),
            )
        )
        if _text(outcome) == "changed":
            raise PolicyChanged(f"the pool's policy has revision {_int(revision)} by now, not {expected}")
        return _int(revision)

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish messages on channels, in order, in one round trip."""
        await self._run("publish", *(part for message in messages for part in message))

    # The seal.

    @property
    def key_id(self) -> str | None:
        """The id of the key that seals the pool; None if none does, or it was not asked for when connecting."""
        return self._announced[0] if self._announced else None

    def unseal(self, envelope: Envelope, payload: bytes) -> bytes:
        """The payload of a request as its agent wrote it. A ring with a file learns keys that came since.

        Raises:
            PoolKeyMismatch: it was sealed under a key that is not ours, or not sealed in a pool that is.
            BadRequest: it was changed since, or is another request's.
        """
        if envelope.key_id is None:
            if not self._ring.keys:
                return payload
            raise PoolKeyMismatch(f"the request is not sealed, and this pool is, with key {self.key_id}")
        key = self._ring.find(envelope.key_id)
        if key is None:
            self._ring = self._ring.reread()
            key = self._ring.find(envelope.key_id)
        if key is None:
            raise PoolKeyMismatch(
                f"the request is sealed with key {envelope.key_id}, which its worker does not have: restart the worker "
                "with the keys that `tokenlane key show --reveal` prints where the key is",
                retryable=True,  # by another worker
            )
        return unseal(payload, envelope.id, key)

    async def join(self, ring: KeyRing, *, opens: bool) -> None:
        """Agree with the pool on its keys; announce them if nobody uses it yet.

        Args:
            ring: the caller's keys; none given, those beside the server's socket.
            opens: to open what others sealed takes all of the pool's keys; to seal takes one.

        Raises:
            PoolKeyMismatch: the pool has other keys, or none and is in use.
        """
        try:
            self._ring = ring if ring.keys else beside(self.url)
        except ConfigError as error:
            raise PoolKeyMismatch(str(error)) from error
        outcome, ids = await self._announce(self._ring)
        if outcome == "open" and ids:
            raise PoolKeyMismatch(
                f"{self} is in use without a key, and yours is {ids}: leave it out, or stop the pool's workers and "
                "agents, and then the first to come with a key seals it"
            )
        self._learn(ids)
        missing = [key_id for key_id in self._announced if self._ring.find(key_id) is None]
        if missing and (opens or len(missing) == len(self._announced)):
            raise self._mismatch()

    async def announce(self, ring: KeyRing) -> None:
        """Have these keys, and no others, be the pool's."""
        self._ring = ring
        _, ids = await self._announce(ring, "replace")
        self._learn(ids)

    async def key_ids(self) -> tuple[str, ...]:
        """The ids of the pool's keys, the newest first; none if it is not sealed."""
        _, ids = await self._announce(KeyRing())
        return tuple(ids.split())

    async def sealed_with(self, key_ids: Sequence[str]) -> int:
        """How many requests that have not ended are sealed with one of these keys."""
        async with _asking(self.url):
            ids = _list(await _command(self.redis, "ZRANGE", self.keys.deadlines, 0, -1))
            async with self.redis.pipeline(transaction=False) as pipe:
                for request_id in ids:
                    pipe.hget(self.keys.request(_text(request_id)), "key")
                used = await pipe.execute()
        return sum(key is not None and key.decode() in key_ids for key in used)

    async def _announce(self, ring: KeyRing, how: str = "") -> tuple[str, str]:
        outcome, ids = _list(await self._run("announce", " ".join(ring.ids), how))
        return _text(outcome), _text(ids)

    def _learn(self, ids: str) -> None:
        announced = tuple(ids.split())
        if announced and announced != self._announced and self._ring.find(announced[0]) is None:
            self._ring = self._ring.reread()
        self._announced = announced

    def _sealing(self) -> PoolKey | None:
        """The newest of the pool's keys that is ours; the newest of ours in a pool that has forgotten its own."""
        found = (self._ring.find(key_id) for key_id in self._announced or self._ring.ids)
        return next((key for key in found if key is not None), None)

    def _mismatch(self) -> PoolKeyMismatch:
        yours = f"yours is {', '.join(self._ring.ids)}" if self._ring.keys else "you gave none"
        return PoolKeyMismatch(
            f"{self} is sealed with key {', '.join(self._announced)}, and {yours}: set TOKENLANE_POOL_KEY, or "
            "Client(key=...), to what `tokenlane key show --reveal` prints where the key is"
        )

    async def _run(self, name: str, *args: bytes | str | int) -> _Reply:
        # Without `_asking`, which costs as much as the command.
        try:
            async with asyncio.timeout(_COMMAND_TIMEOUT_S):
                try:
                    return await _command(self.redis, "EVALSHA", self._shas[name], 1, self.keys.prefix, *args)
                except redis_errors.NoScriptError:
                    return await _command(self.redis, "EVAL", self._scripts[name], 1, self.keys.prefix, *args)
        except (redis_errors.RedisError, OSError) as error:
            raise _ours(error, self.url) from error


@asynccontextmanager
async def connect(
    url: str, pool: str = "main", *, keys: KeyRing | None = None, opens: bool = False
) -> AsyncIterator[Pool]:
    """Connect to the pool at a Redis URL (`redis://`, `rediss://` or `unix://`), and disconnect at the end.

    Args:
        keys: those of an agent or, with `opens`, of a worker; an empty ring is filled with what is beside the server's
            socket. None: the payloads of requests are not the caller's business, and it needs no key.

    Raises:
        PoolUnavailable: nothing answers there, or not a Redis server, or it wants a password.
        PoolKeyMismatch: the pool is sealed with another key, or the caller has one and the pool has none.
    """
    redis = open_redis(url)
    try:
        database = int(redis.connection_pool.connection_kwargs.get("db") or 0)
        await _greet(url)
        opened = Pool(redis, Keys(pool, database), url)
        if keys is not None:
            await opened.join(keys, opens=opens)
        yield opened
    finally:
        await redis.aclose()


def open_redis(url: str, *, retries: int = 5) -> Redis:
    """A client that rides over a server's restart: `retries` tries with growing pauses, for 5 a few seconds in all.

    It has no `socket_timeout`: with one, redis-py sends through `asyncio.wait_for`, which swallows cancellations in
    Python 3.11. Whoever uses it bounds its calls itself.

    Raises:
        PoolUnavailable: the URL is none of a Redis server.
    """
    try:
        pool: _Connections = _Connections.from_url(
            url,
            max_connections=32,
            timeout=None,
            socket_connect_timeout=_COMMAND_TIMEOUT_S,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.02), retries),
            retry_on_error=list(_CONNECTION_ERRORS),
        )
        pool.connection_kwargs["decode_responses"] = False  # whatever the URL says
        pool.connection_class(**pool.connection_kwargs)  # only this tells options it does not know
    except (ValueError, TypeError, redis_errors.RedisError) as error:
        raise PoolUnavailable(
            f"{masked(url)!r} is not a Redis URL: give redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH"
        ) from error
    return Redis.from_pool(pool)


class _Connections(BlockingConnectionPool):
    """redis-py tries again to connect and to ask, but not to greet: a connection cut in between ends a command.

    One that is connected is used as it is. redis-py would first try to read from it, to find out whether it was cut
    meanwhile; asking finds that out too, and is tried again.
    """

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        if connection.is_connected:
            return
        await connection.retry.call_with_retry(
            lambda: super(_Connections, self).ensure_connection(connection), lambda _: connection.disconnect()
        )


async def _greet(url: str) -> None:
    # Not through the patient client: a wrong URL should be told at once.
    async with open_redis(url, retries=0) as impatient:
        async with _asking(url):
            await _command(impatient, "PING")


def _command(redis: Redis, *parts: bytes | str | int) -> Awaitable[_Reply]:
    return cast("Awaitable[_Reply]", redis.execute_command(*parts))  # type: ignore[no-untyped-call]  # in redis-py 5


@asynccontextmanager
async def _asking(url: str) -> AsyncIterator[None]:
    """Around every command: it has an end, and its errors are ours."""
    try:
        async with asyncio.timeout(_COMMAND_TIMEOUT_S):
            yield
    except (redis_errors.RedisError, OSError) as error:
        raise _ours(error, url) from error


def _ours(error: redis_errors.RedisError | OSError, url: str) -> LlmError:
    """What a Redis error means. Their texts hold no keys' values, so they may be shown."""
    where = masked(url)
    match error:
        case redis_errors.AuthenticationError():
            return _wants_password(where)
        case redis_errors.OutOfMemoryError():
            return QueueFull(f"the Redis server at {where} is out of memory: send again later", retry_after_s=1.0)
        case redis_errors.InvalidResponse():
            return PoolUnavailable(f"what answers at {where} is not a Redis server: check host and port")
        case redis_errors.ConnectionError() | redis_errors.TimeoutError() | OSError():
            if isinstance(error.__cause__, redis_errors.AuthenticationError):  # how redis-py tells it of a unix socket
                return _wants_password(where)
            if isinstance(error.__cause__, redis_errors.ResponseError):  # and of what else it refused there
                return PoolUnavailable(f"the Redis server at {where} refused: {error.__cause__}")
            return PoolUnavailable(
                f"no Redis server answers at {where}: start one with `tokenlane up`, or check the URL"
            )
        case _:
            return PoolUnavailable(f"the Redis server at {where} refused: {error}")


def _wants_password(where: str) -> PoolUnavailable:
    return PoolUnavailable(
        f"the Redis server at {where} wants a password, or another one: put it into the URL, redis://:PASSWORD@HOST"
    )


def _script_names() -> list[str]:
    folder = resources.files(__package__).joinpath("lua")
    names = (file.name.removesuffix(".lua") for file in folder.iterdir() if file.name.endswith(".lua"))
    return sorted(name for name in names if name != "common")


def _source(name: str, database: int) -> str:
    folder = resources.files(__package__).joinpath("lua")
    defaults = Policy()
    rules = ", ".join(f"{rule} = {getattr(defaults, rule)}" for rule in _RULES)
    head = f"local DATABASE, RULES = '{database}', {{ {rules} }}\n"
    common, own = (folder.joinpath(f"{part}.lua").read_text() for part in ("common", name))
    return own if name in _ALONE else head + common + own


def _duplicate(request_id: str, state: str) -> Duplicate:
    error = Duplicate(
        f"request {request_id} had this idempotency key and is {state}: attach to it within a minute of its end for "
        "its answer, or ask anew with another key"
    )
    error.request_id = request_id
    return error


def _started(reply: _Reply) -> Started | None:
    outcome, *rest = _list(reply)
    if _text(outcome) != "run":
        return None
    attempt, document, payload, model, starts, left_ms, waited_ms, cancelled = rest
    try:
        envelope = Envelope.model_validate_json(_bytes(document))
    except ValidationError:
        logger.error("a request cannot be read and is left to its lease: run one version of tokenlane everywhere")
        return None
    return Started(
        attempt=_int(attempt),
        envelope=envelope,
        payload=_bytes(payload),
        model=_text(model),
        starts=_int(starts),
        left_ms=_int(left_ms),
        waited_ms=_int(waited_ms),
        cancelled=_int(cancelled) == 1,
    )


def _standing(reply: list[_Reply]) -> Standing:
    state, attempt, worker, end, code, owner = reply
    return Standing(
        state=cast("State", _text(state)),
        attempt=_int(attempt),
        worker=_text(worker),
        end=int(_text(end)) if _text(end) else None,
        code=_text(code),
        owner=_text(owner),
    )


def _head(reply: list[_Reply]) -> Head | None:
    """A queue's head; None if a newer agent has made the queue and this version does not know its kind."""
    name, agent, request_id, attempt, more, served, waited_ms, place = reply
    try:
        queue = Queue.parse(_text(name))
    except ValueError:
        return None
    return Head(
        queue=queue,
        agent=_text(agent),
        id=_text(request_id),
        attempt=_int(attempt),
        more=_int(more) == 1,
        served=_int(served),
        waited_ms=_int(waited_ms),
        place=_int(place),
    )


def _lane(reply: list[_Reply]) -> LaneView:
    name, provider, endpoint, models, limit, queued, workers, seen_ms, offer, embeds, commands = reply
    return LaneView(
        name=_text(name),
        provider=_text(provider),
        endpoint=_text(endpoint),
        models=tuple(json.loads(_text(models))),
        limit=_int(limit),
        queued=_int(queued),
        workers=_int(workers),
        seen_ms=_int(seen_ms),
        offer=_offer(_bytes(offer)),
        beside={"embed": _int(embeds), "command": _int(commands)},
    )


@lru_cache(maxsize=256)
def _offer(document: bytes) -> Offer:
    """A lane's offer; of one that a newer worker has made and this version cannot read, chat is what is left."""
    try:
        return Offer.model_validate_json(document)
    except ValidationError:
        logger.error("a lane's offer cannot be read; it is given chats alone: run one version of tokenlane everywhere")
        return Offer()


def _list(reply: _Reply) -> list[_Reply]:
    assert isinstance(reply, list)
    return reply


def _bytes(reply: _Reply) -> bytes:
    assert isinstance(reply, bytes)
    return reply


def _text(reply: _Reply) -> str:
    return _bytes(reply).decode()


def _int(reply: _Reply) -> int:
    assert isinstance(reply, int)
    return reply
