"""Runs the embedded Redis server of `tokenlane up`, and restarts it if it dies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tokenlane.config.cli.output import note
from tokenlane.config.host.embedded_server import EmbeddedServer
from tokenlane.config.host.listen_address import bind_address, known_as
from tokenlane.config.host.pool_key_files import read_key_file
from tokenlane.config.host.up_registry import RunningUp, announced, data_dir, only_up
from tokenlane.config.settings.values import RedisSettings
from tokenlane.routing.support.tasks import background

_REDIS_PORT = 6379


@asynccontextmanager
async def embedded_redis(
    *, private: bool, listen: str | None
) -> AsyncIterator[tuple[RedisSettings, RedisSettings | None]]:
    """Run an embedded server while the block runs, and restart it if it dies. Yields its address for this user and, if
    it listens, its address for other hosts. Both come with the keys in the server's directory.

    Args:
        private: keep no data, and hide the server from this user's other commands.
        listen: the HOST or HOST:PORT at which other hosts may connect; None to accept only this user.

    Raises:
        AlreadyRunning: this user already runs an embedded server on this host.
        UserError: the server cannot be started or restarted.
    """
    if private:
        async with EmbeddedServer() as server:
            yield _here(server), None
        return
    address = bind_address(listen, "--listen", _REDIS_PORT) if listen is not None else None
    with only_up():
        async with EmbeddedServer(data_dir() / "redis", keeps=True, listen=address) as server:
            here = _here(server)
            public = RedisSettings(server.public_url(known_as(address[0])), here.keys) if address else None
            with announced(RunningUp(server.socket, server.url, public.url if public else None)):
                try:
                    async with background() as tasks:
                        tasks.create_task(_keep_alive(server), name="tokenlane embedded server")
                        yield here, public
                except ExceptionGroup as failed:  # the server cannot be restarted
                    raise failed.exceptions[0] from None


def _here(server: EmbeddedServer) -> RedisSettings:
    return RedisSettings(server.url, read_key_file(server.key_file))


async def _keep_alive(server: EmbeddedServer) -> None:
    while True:
        code = await server.ended()
        note(f"tokenlane: the embedded server exited with code {code}; restarting it", err=True)
        await server.revive()
