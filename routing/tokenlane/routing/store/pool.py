"""The pool: one method per script, typed replies.

The only code that issues Redis commands on the pool's keys. What a script does is said in `lua/`; here is only how it
is called and what comes back. Every method may be retried: a script sent twice answers as it did the first time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import get_args

from pydantic import ValidationError
from redis import exceptions as redis_errors
from redis.asyncio import Redis

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.pool_key_files import KeyRing, beside
from tokenlane.config.settings.values import masked
from tokenlane.routing.contract.errors import (
    Duplicate,
    Interrupted,
    LlmError,
    PoolKeyMismatch,
    PoolUnavailable,
    QueueFull,
    RequestCancelled,
    RequestLost,
)
from tokenlane.routing.contract.messages import Envelope
from tokenlane.routing.contract.seal import seal
from tokenlane.routing.decide.lanes.offer import UP, Announcement, Condition, Facts, Fault, Hits, Running
from tokenlane.routing.decide.order import Head, Queue
from tokenlane.routing.decide.policy import Policy, PolicyChanged
from tokenlane.routing.support.tasks import InternalErrors
from tokenlane.routing.watch.parse_snapshot import read_snapshot
from tokenlane.routing.watch.snapshot import Snapshot

from . import connection
from .command_turns import Urgency
from .keychain import Keychain
from .keys import Keys
from .redis_py import open_redis
from .replies import (
    Accepted,
    Attachment,
    Beat,
    Checked,
    Ending,
    Reply,
    Started,
    Survey,
    Swept,
    as_bytes,
    as_int,
    as_list,
    as_text,
    read_attachment,
    read_beat,
    read_checked,
    read_started,
    read_survey,
    read_swept,
)
from .scripts import RULES, sources

__all__ = ["Pool", "connect"]


class Pool:
    """A connected pool. Get one with `connect`.

    All methods raise `PoolUnavailable` when the server does not answer, and `QueueFull` when it has no memory left.

    `internal_errors`: those of the tasks that work for this pool; beats tell their number.
    """

    def __init__(self, redis: Redis, keys: Keys, url: str) -> None:
        self.redis = redis
        self.keys = keys
        self.url = url
        self.internal_errors = InternalErrors()
        self.keychain = Keychain(KeyRing(), str(self))
        self._scripts = sources(keys.database)
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
            RequestCancelled: it was cancelled before it came.
        """
        queue = Queue.of(envelope)
        while True:
            key = self.keychain.key
            if key is not None:
                envelope = envelope.model_copy(update={"key_id": key.id})
            reply = await self._run(
                "submit",
                *(envelope.id, envelope.role, queue.name, envelope.agent, envelope.client, envelope.kind),
                *(envelope.time_to_live_ms, floor, envelope.to_wire()),
                *(payload if key is None else seal(payload, envelope.id, key), envelope.key_id or ""),
                envelope.idempotency or "",
                urgency=Urgency.NEW_WORK,
            )
            outcome, *rest = as_list(reply)
            if as_text(outcome) != "key":
                break
            self.keychain.learn(as_text(rest[0]))
            if self.keychain.key in (None, key):
                raise self.keychain.mismatch()
        if as_text(outcome) == "accepted":
            self.keychain.learn(as_text(rest[1]))
            return Accepted(envelope.id, as_int(rest[0]))
        if as_text(outcome) == "cancelled":
            raise RequestCancelled
        if as_text(outcome) == "known":
            revision, known, state = rest
            if as_text(state) in get_args(Ending):
                raise _duplicate(as_text(known), as_text(state))
            return Accepted(as_text(known), as_int(revision))
        whose = f"role {envelope.role!r}" if as_text(rest[0]) == "role" else f"agent {envelope.agent!r}"
        seconds = as_int(rest[1]) / 1000
        raise QueueFull(f"{whose} has too many requests: send again in {seconds:.1f} s", retry_after_s=seconds)

    async def dispatch(self, head: Head, lane: str, model: str, token: str) -> int | None:
        """Give the request to the lane; the attempt's number, or None if that was not possible any more."""
        reply = await self._run("dispatch", head.id, head.queue.name, head.agent, lane, model, token)
        outcome, *rest = as_list(reply)
        return as_int(rest[0]) if as_text(outcome) == "dispatched" else None

    async def start(self, request_id: str, attempt: int, worker: str, *, marked: bool = False) -> Started | None:
        """Claim an attempt; None if it is not to be run any more, or by another.

        Args:
            marked: the worker has ARQ's mark on the job.
        """
        return read_started(await self._run("start", request_id, attempt, worker, int(marked)))

    async def renew(
        self,
        worker: str,
        lane: Announcement,
        running: Sequence[Running],
        *,
        takes_new_work: bool,
        condition: Condition = UP,
        fault: Fault | None = None,
        hits: Hits | None = None,
    ) -> Beat:
        """A worker's beat: announces its lane, and renews the leases of all it runs.

        Args:
            takes_new_work: it does while its back end is up; False: it stops.
            condition: of its back end.
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
            *(worker, lane.lane, condition.state if takes_new_work else "draining"),
            *(lane.provider, lane.endpoint, json.dumps(lane.models), lane.limit, lane.offer.model_dump_json()),
            *(*told, *counted, self.internal_errors.count, condition.why, *held),
            urgency=Urgency.BEAT,
        )
        return read_beat(reply)

    async def register(self, worker: str, lane: str, facts: Facts) -> None:
        """Say what does not change while a worker lives, for those who watch the pool."""
        await self._run("register", worker, lane, facts.host, json.dumps(dict(facts.versions)), self.keychain.held)

    async def requeue(self, request_id: str, attempt: int, worker: str, due_ms: int = 0, *, counts: bool = True) -> str:
        """Give an attempt back; the state the request is in now, or `stale`.

        Args:
            counts: the attempt is one of those a request has; False if it never reached its back end.
        """
        return as_text(await self._run("requeue", request_id, attempt, worker, due_ms, int(counts)))

    async def bury(self, worker: str) -> int:
        """Give back what a worker ran whose process has surely ended; how many requests that was."""
        return as_int(await self._run("bury", worker))

    async def finish(
        self, request_id: str, attempt: int, worker: str, ending: Ending, end: int, code: str, message: bytes
    ) -> bool:
        """End a request, and tell its agent; False if the attempt is no longer the worker's.

        Raises:
            RequestLost: the server has forgotten the request; once the worker has beaten, it is known again.
        """
        reply = as_text(await self._run("finish", request_id, attempt, worker, ending, end, code, message, ""))
        if reply == "unknown":
            raise RequestLost("the server was wiped while the request ran")
        return reply == "done"

    async def refuse(self, request_id: str, code: str, message: bytes) -> bool:
        """Fail a request that waits; False if it no longer does."""
        return as_text(await self._run("finish", request_id, "", "", "failed", 0, code, message, "")) == "done"

    async def interrupt(self, client: str, request_id: str, attempt: int, end: int, message: bytes) -> bool:
        """Fail a request that waits although its client has a part of its answer; False if another client owns it, or
        another attempt has begun.

        Args:
            attempt: the newest.
            end: how many deltas the client has.
        """
        args = (request_id, attempt, "", "failed", end, Interrupted.code, message, client)
        return as_text(await self._run("finish", *args)) == "done"

    async def cancel(self, request_id: str, leaving: str = "") -> str:
        """Cancel a request: `cancelled` at once, `flagged` for its worker, `ended` before, `unknown`, or `kept`.

        Args:
            leaving: the client that has no more use for it; the request is `kept` if another client owns it.
        """
        return as_text(await self._run("cancel", request_id, leaving))

    async def attach(self, client: str, request_id: str) -> Attachment:
        """Make the client the request's owner; how it stands, `missing` if the server does not know it."""
        return read_attachment(await self._run("attach", client, request_id))

    async def sweep(self, router: str, *, rank_only: bool = False, revision: int | None = None) -> Swept:
        """Look after leases, delays, deadlines and vanished clients.

        Args:
            router: `host/name`.
            rank_only: only ask for the rank.
            revision: of the policy by which the router decides; None if it decides nothing.
        """
        decides_by = "" if revision is None else revision
        args = (router, 0 if rank_only else 1, decides_by, self.internal_errors.count)
        return read_swept(await self._run("sweep", *args, urgency=Urgency.BEAT))

    async def check(self, client: str, request_ids: Sequence[str] = (), *, held: int | None = None) -> Checked:
        """A client's beat, and how those of its streams stand that it asks for (128 at most).

        Args:
            held: how many requests the client holds; None: it does not ask for `strangers`.
        """
        return read_checked(
            await self._run("check", client, "" if held is None else held, *request_ids, urgency=Urgency.BEAT)
        )

    async def survey(self) -> Survey:
        """Read the heads of all queues, and all lanes."""
        return read_survey(await self._run("survey"))

    async def snapshot(self) -> Snapshot:
        """All that operators look at, of one moment."""
        return read_snapshot(self.keys.pool, await self._run("snapshot"))

    async def rehearse(self) -> tuple[str, ...]:
        """Try everything that scripts and workers do, in a way that leaves nothing behind: what the server refuses.

        Raises:
            LlmError: it refuses scripts altogether, or does not answer.
        """
        name = secrets.token_hex(8)
        key = self.keys.rehearsal(name)
        failed = as_list(await self._run("rehearse", name, self.keys.hub(name)))
        said = [as_text(error) for _, error in map(as_list, failed)]
        problems = [connection.as_ours(redis_errors.ResponseError(text), self.url).message for text in said]
        for command in (("PSETEX", key, 1000, "1"), ("MGET", key), ("DEL", key), ("ZRANGE", key, 0, -1)):
            try:
                await self._ask(*command)
            except LlmError as error:
                problems.append(error.message)
        return tuple(dict.fromkeys(problems))

    async def ask_server(self, *command: str) -> object | None:
        """What the server says to a command that touches no keys, as INFO; None if it lets this user not ask."""
        async with connection.asking(self.url):
            try:
                answer: object = await connection.command(self.redis, *command)
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
        revision, document = as_list(await self._ask("HMGET", self.keys.policy, "revision", "document"))
        if document is None:
            return Policy()
        try:
            policy = Policy.model_validate_json(as_bytes(document))
        except ValidationError as error:
            wrong = ", ".join(".".join(map(str, part["loc"])) for part in error.errors())
            raise PoolUnavailable(
                f"pool {self.keys.pool!r} has a policy that this version cannot read ({wrong}): write it anew"
            ) from None
        return policy.model_copy(update={"revision": int(as_text(revision))})

    async def set_policy(self, policy: Policy, *, expected: int | None = None) -> int:
        """Write the pool's policy; its revision, a new one unless it was there already.

        Args:
            expected: write only if the pool's policy has this revision.

        Raises:
            PolicyChanged: it has another one.
        """
        fields = {rule: getattr(policy, rule) for rule in RULES}
        for name, role in policy.roles.items():
            limits = role.limits.model_dump(exclude_none=True)
            fields |= {f"{limit}:{name}": value for limit, value in limits.items()}
            fields[f"weight:{name}"] = role.weight
        outcome, revision = as_list(
            await self._run(
                "set_policy",
                "" if expected is None else expected,
                policy.model_dump_json(exclude={"revision"}),
                *(str(part) for field in fields.items() for part in field),
            )
        )
        if as_text(outcome) == "changed":
            raise PolicyChanged(f"the pool's policy has revision {as_int(revision)} by now, not {expected}")
        return as_int(revision)

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish messages on channels, in order, in one round trip."""
        if len(messages) == 1:
            await self._ask("PUBLISH", *messages[0])
        else:
            await self._run("publish", *(part for message in messages for part in message))

    # The seal.

    async def join(self, ring: KeyRing, *, opens: bool) -> None:
        """Agree with the pool on its keys; announce them if nobody uses it yet.

        Args:
            ring: the caller's keys; none given, those beside the server's socket.
            opens: to open what others sealed takes all of the pool's keys; to seal takes one.

        Raises:
            PoolKeyMismatch: the pool has other keys, or none and is in use.
        """
        try:
            self.keychain = Keychain(ring if ring.keys else beside(self.url), str(self))
        except ConfigError as error:
            raise PoolKeyMismatch(str(error)) from error
        outcome, ids, *others = await self._announce(self.keychain.ring)
        if outcome == "open" and ids:
            raise PoolKeyMismatch(
                f"{self} is in use without a key, and yours is {ids}: leave it out, or stop the pool's workers and "
                "agents, and then the first to come with a key seals it"
            )
        self.keychain.learn(ids, *others)
        self.keychain.check(opens=opens)

    async def announce(self, ring: KeyRing, retiring: Sequence[str] = ()) -> None:
        """Have these keys, and no others, be the pool's; those that are prepared seal nothing yet.

        Args:
            retiring: ids of those that seal no more, and still open what waits.
        """
        self.keychain = Keychain(ring, str(self))
        _, *ids = await self._announce(ring, "replace", retiring)
        self.keychain.learn(*ids)

    async def announce_again(self, ring: KeyRing) -> None:
        """Have these keys, and no others, be the pool's; those of them that are retiring go on doing so."""
        *_, retiring, _ = await self._announce(KeyRing())
        old = [key_id for key_id in retiring.split() if ring.find(key_id) is not None]
        await self.announce(replace(ring, keys=tuple(key for key in ring.keys if key.id not in old)), old)

    async def unseal(self, envelope: Envelope, payload: bytes) -> bytes:
        """The payload of a request as its agent wrote it.

        Raises:
            PoolKeyMismatch: it was sealed under a key that is not ours, or not sealed in a pool that is; `retryable` if
                another worker may have that key.
            BadRequest: it was changed since, or is another request's.
        """
        if not self.keychain.has(envelope.key_id):
            # Keys may have come and gone since this worker joined; what is sealed with one of them was accepted.
            _, *ids = await self._announce(KeyRing())
            self.keychain.learn(*ids)
        return self.keychain.unseal(envelope, payload)

    async def check_keys(self, ring: KeyRing) -> None:
        """Find these keys good enough for a worker, as joining with them would, and leave the pool as it is.

        Raises:
            PoolKeyMismatch: the pool is sealed, and they are not.
        """
        _, *ids = await self._announce(KeyRing())
        keychain = Keychain(ring, str(self))
        keychain.learn(*ids)
        keychain.check(opens=True)

    async def key_ids(self) -> tuple[str, ...]:
        """The ids of the pool's keys, the newest first; none if it is not sealed."""
        _, ids, *_ = await self._announce(KeyRing())
        return tuple(ids.split())

    async def sealed_with(self, key_ids: Sequence[str]) -> int:
        """How many requests that have not ended are sealed with one of these keys."""
        ids = as_list(await self._ask("ZRANGE", self.keys.deadlines, 0, -1))
        async with connection.asking(self.url):
            async with self.redis.pipeline(transaction=False) as pipe:
                for request_id in ids:
                    pipe.hget(self.keys.request(as_text(request_id)), "key")
                used = await pipe.execute()
        return sum(key is not None and key.decode() in key_ids for key in used)

    async def _announce(self, ring: KeyRing, how: str = "", retiring: Sequence[str] = ()) -> tuple[str, str, str, str]:
        prepared = " ".join(key.id for key in ring.prepared)
        reply = await self._run("announce", " ".join(ring.ids), how, " ".join(retiring), prepared)
        outcome, ids, old, new = map(as_text, as_list(reply))
        return outcome, ids, old, new

    async def _run(self, name: str, *args: bytes | str | int, urgency: Urgency = Urgency.USUAL) -> Reply:
        try:
            return await self._ask("EVALSHA", self._shas[name], 1, self.keys.prefix, *args, urgency=urgency)
        except redis_errors.NoScriptError:
            return await self._ask("EVAL", self._scripts[name], 1, self.keys.prefix, *args, urgency=urgency)

    def _ask(self, *parts: bytes | str | int, urgency: Urgency = Urgency.USUAL) -> Awaitable[Reply]:
        return connection.ask(self.redis, self.url, *parts, urgency=urgency)


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
        await connection.greet(url)
        opened = Pool(redis, Keys(pool, database), url)
        if keys is not None:
            await opened.join(keys, opens=opens)
        yield opened
    finally:
        await redis.aclose()


def _duplicate(request_id: str, state: str) -> Duplicate:
    error = Duplicate(
        f"request {request_id} had this idempotency key and is {state}: attach to it within a minute of its end for "
        "its answer, or ask anew with another key"
    )
    error.request_id = request_id
    return error
