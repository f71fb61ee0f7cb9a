"""The embedded server of `tokenlane up`: found by the user's other commands, and started again should it die."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tokenlane.config.cli.output import note
from tokenlane.config.host.embedded_server import EmbeddedServer
from tokenlane.config.host.pool_key_files import KeyRing, read_key_file
from tokenlane.config.host.up_registry import RunningUp, announced, data_dir, only_up
from tokenlane.config.settings.values import RedisSettings
from tokenlane.routing.support.tasks import background

from .listen_address import bind_address, known_as


@dataclass(frozen=True)
class EmbeddedRedis:
    """Where the server is, for this user and, if it listens, for other machines; and the keys of its pools."""

    here: RedisSettings
    public: RedisSettings | None = None

    @property
    def keys(self) -> KeyRing:
        """The keys in the server's directory."""
        return self.here.keys


@asynccontextmanager
async def embedded_redis(*, private: bool, listen: str | None) -> AsyncIterator[EmbeddedRedis]:
    """Run an embedded server for as long as the block lasts.

    Args:
        private: keep nothing, and let nobody find it.
        listen: HOST or HOST:PORT for other machines.

    Raises:
        AlreadyRunning: this user has one here.
        UserError: it cannot be started, or not again.
    """
    if private:
        async with EmbeddedServer() as server:
            yield EmbeddedRedis(_here(server))
        return
    address = bind_address(listen) if listen is not None else None
    with only_up():
        async with EmbeddedServer(data_dir() / "redis", keeps=True, listen=address) as server:
            here = _here(server)
            public = RedisSettings(server.public_url(known_as(address[0])), here.keys) if address else None
            with announced(RunningUp(server.socket, server.url, public.url if public else None)):
                try:
                    async with background() as tasks:
                        tasks.create_task(_keep_alive(server), name="tokenlane embedded server")
                        yield EmbeddedRedis(here, public)
                except ExceptionGroup as failed:  # it cannot be started again
                    raise failed.exceptions[0] from None


def _here(server: EmbeddedServer) -> RedisSettings:
    return RedisSettings(server.url, read_key_file(server.key_file))


async def _keep_alive(server: EmbeddedServer) -> None:
    while True:
        code = await server.ended()
        note(f"tokenlane: the embedded server ended with code {code}; starting it again", err=True)
        await server.revive()
