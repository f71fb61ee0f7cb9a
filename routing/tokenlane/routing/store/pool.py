"""The pool: what is done in it, each subject in an object of its own, over one connection to its server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.routing.decide.plan import Survey
from tokenlane.routing.support.tasks import InternalErrors

from .arq_queues import LaneQueues
from .beats import Beats
from .key_agreement import Sealing
from .keychain import Keychain
from .keys import Keys
from .policies import Policies
from .replies.values import Reply
from .request_life import Requests
from .scripts import Scripts
from .server import Commands, Server
from .survey import read_survey


class Pool:
    """A connected pool. Get one with `connect`.

    All methods of it and its parts raise `PoolUnavailable` when the server does not answer, and `QueueFull` when it has
    no memory left.

    `keys`: the names of all that it has in Redis. `internal_errors`: those of the tasks that work for this pool; beats
    tell their number.
    """

    def __init__(self, commands: Commands, keys: Keys) -> None:
        self.commands = commands
        self.keys = keys
        self.internal_errors = InternalErrors()
        self.keychain = Keychain(KeyRing(), str(self))
        self.scripts = Scripts(commands, keys)
        self.requests = Requests(self.scripts, self.keychain)
        self.beats = Beats(self.scripts, self.keychain, self.internal_errors)
        self.arq_queues = LaneQueues(self.scripts, keys)
        self.policies = Policies(self.scripts, keys)
        self.sealing = Sealing(self.scripts, keys, self.keychain, self.server)

    @property
    def server(self) -> Server:
        """The server it lives on."""
        return self.commands.server

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        """The pool for people, where messages name it."""
        return f"pool {self.keys.pool!r} at {self.server}"

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish messages on channels, in order, in one round trip."""
        if len(messages) == 1:
            await self.scripts.ask("PUBLISH", *messages[0])
        else:
            await self.scripts.run("publish", *(part for message in messages for part in message))

    async def survey(self) -> Survey:
        """Read the heads of all queues, and all lanes."""
        return read_survey(await self.scripts.run("survey"))

    async def snapshot_reply(self) -> Reply:
        """All that operators look at, of one moment, as lua/snapshot.lua describes it."""
        return await self.scripts.run("snapshot")


@asynccontextmanager
async def connect(
    where: str | Server, pool: str = "main", *, keys: KeyRing | None = None, opens: bool = False
) -> AsyncIterator[Pool]:
    """Connect to the pool on a server, or at a Redis URL (`redis://`, `rediss://` or `unix://`); disconnect at the end.

    Args:
        keys: those of an agent or, with `opens`, of a worker; an empty ring is filled with what is beside the server's
            socket. None: the payloads of requests are not the caller's business, and it needs no key.

    Raises:
        PoolUnavailable: nothing answers there, or not a Redis server, or it wants a password.
        PoolKeyMismatch: the pool is sealed with another key, or the caller has one and the pool has none.
    """
    server = Server.of(where) if isinstance(where, str) else where
    server = await server.primary_of(pool)
    await server.greet()
    async with server.commands() as commands:
        opened = Pool(commands, Keys(pool, server.database))
        if keys is not None:
            await opened.sealing.join(keys, opens=opens)
        yield opened
