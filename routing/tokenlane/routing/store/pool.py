"""A connected pool: the entry point to its requests, beats, policy, keys and scripts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.decide.plan import Survey
from tokenlane.routing.support.tasks import InternalErrors

from .access.api_keys import ApiKeys
from .arq_queues import ArqQueues
from .beats import Beats
from .key_agreement import KeyAgreement
from .keychain import Keychain
from .keys import Keys
from .policies import Policies
from .replies.lane import parse_lanes
from .replies.values import Reply, as_int
from .request_life import Requests
from .request_records import RequestRecords
from .scripts import Scripts
from .server import Commands, Server
from .survey import parse_survey


class Pool:
    """A connected pool. Get one from `connect`.

    All methods of the pool and its parts raise `PoolUnavailable` if the server does not answer or refuses a command,
    and `QueueFull` if the server is out of memory.

    `internal_errors`: unexpected errors in this process's tasks for the pool. Routers report their number with each
    beat.
    """

    def __init__(self, commands: Commands, keys: Keys, internal_errors: InternalErrors | None = None) -> None:
        self.commands = commands
        self.keys = keys
        self.internal_errors = internal_errors or InternalErrors()
        self.keychain = Keychain(KeyRing(), str(self))
        self.scripts = Scripts(commands, keys)
        self.requests = Requests(self.scripts, self.keychain)
        self.records = RequestRecords(self.scripts, keys)
        self.beats = Beats(self.scripts, self.keychain, self.internal_errors)
        self.arq_queues = ArqQueues(self.scripts, keys)
        self.policies = Policies(self.scripts, keys)
        self.api_keys = ApiKeys(self.scripts, keys)
        self.key_agreement = KeyAgreement(self.scripts, keys, self.keychain, self.server)

    @property
    def server(self) -> Server:
        """The Redis server that holds the pool."""
        return self.commands.server

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        """The pool's name and server, for messages."""
        return f"pool {self.keys.pool!r} at {self.server}"

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish messages, in order and in one round trip. Each message comes with its channel."""
        if len(messages) == 1:
            await self.scripts.ask("PUBLISH", *messages[0])
        else:
            await self.scripts.run("publish", *(part for message in messages for part in message))

    async def drain_lane(self, lane: str) -> bool:
        """Give a lane no new work until `resume_lane`; return False if it was already drained. Requests that run there
        go on."""
        return as_int(await self.scripts.run("stop_work", "drained", lane, "stop")) == 1

    async def resume_lane(self, lane: str) -> bool:
        """Let a drained lane get work again; return False if it was not drained."""
        return as_int(await self.scripts.run("stop_work", "drained", lane, "resume")) == 1

    async def pause_role(self, role: str) -> bool:
        """Let the role's requests wait until `resume_role`; return False if it was already paused. Requests that run
        go on."""
        return as_int(await self.scripts.run("stop_work", "paused", role, "stop")) == 1

    async def resume_role(self, role: str) -> bool:
        """Let a paused role's requests start again; return False if it was not paused."""
        return as_int(await self.scripts.run("stop_work", "paused", role, "resume")) == 1

    async def lanes(self) -> tuple[LaneView, ...]:
        """Read all lanes at one moment."""
        return parse_lanes(await self.scripts.run("list_lanes"))

    async def survey(self) -> Survey:
        """Read the heads of all queues, and all lanes, at one moment."""
        return parse_survey(await self.scripts.run("survey"), self.keys.pool)

    async def snapshot_reply(self, client_silent_ms: int) -> Reply:
        """Read the state of the whole pool at one moment. The header of lua/snapshot.lua describes the reply.

        Args:
            client_silent_ms: how long after its last beat a client counts as silent.
        """
        return await self.scripts.run("snapshot", client_silent_ms)


@asynccontextmanager
async def connect(
    where: str | Server,
    pool: str = "main",
    *,
    keys: KeyRing | None = None,
    unseals: bool = False,
    greets: bool = True,
    internal_errors: InternalErrors | None = None,
) -> AsyncIterator[Pool]:
    """Connect to a pool until the block ends.

    Args:
        where: the Redis server, or its URL (`redis://`, `rediss://`, `unix://` or `redis+sentinel://`).
        keys: the caller's pool keys; an empty ring stands for the key file next to the server's socket. None for a
            caller that neither seals nor unseals payloads.
        unseals: whether the caller unseals payloads, as workers do, and so needs all of the pool's keys.
        greets: whether to check that a Redis server answers. Without that, the first command connects.
        internal_errors: where unexpected errors in tasks for the pool are counted; by default, the pool's own.

    Raises:
        PoolUnavailable: no Redis server answers, or the server refuses the connection.
        PoolKeyMismatch: the pool is sealed with keys that the caller does not have; or the pool is in use without keys,
            but the caller has keys.
    """
    server = Server.of(where) if isinstance(where, str) else where
    if greets:
        await server.greet()
    async with server.commands() as commands:
        opened = Pool(commands, Keys(pool, server.database), internal_errors)
        if keys is not None:
            await opened.key_agreement.join(keys, unseals=unseals)
        yield opened
