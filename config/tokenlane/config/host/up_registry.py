"""This user's data directory, and the file in it with which other commands find a running `tokenlane up`."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from platformdirs import user_data_path

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.bounded_files import read_file
from tokenlane.config.host.paths import absolute, empty_variable
from tokenlane.config.host.private_files import write_private
from tokenlane.config.host.process_lock import take_lock

_MOST_BYTES = 65536


class AlreadyRunning(ConfigError):
    """This user already has a `tokenlane up` running on this host."""


class RunningUp(NamedTuple):
    """The Redis server of a running `tokenlane up`: its socket, and its URLs with the password."""

    socket: Path
    url: str
    public_url: str | None
    """The URL for other hosts; None if the server listens only on this host."""


def data_dir() -> Path:
    """Return the user's data directory, and create it if necessary. `TOKENLANE_HOME` overrides its path.

    Raises:
        ConfigError: the directory cannot be created, or this user has no home directory.
    """
    path = _home()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The data directory {path} cannot be created: {error.strerror or error}. "
            "Set TOKENLANE_HOME to a directory that you may write to."
        ) from error
    return path


def running_up() -> RunningUp | None:
    """Return this user's running `tokenlane up` on this host; None if there is none or its server does not answer."""
    try:
        path, url, public_url = read_file(_announcement(_home()), _MOST_BYTES).decode().split("\n")
    except (OSError, ValueError):
        return None
    return RunningUp(Path(path), url, public_url or None) if answers(Path(path)) else None


@contextmanager
def only_up() -> Iterator[None]:
    """Hold the lock of this user's only `tokenlane up` on this host while the block runs.

    Raises:
        AlreadyRunning: another `tokenlane up` holds the lock.
        ConfigError: the data directory cannot be written.
    """
    announcement = _announcement(data_dir())
    with _write_errors(announcement):
        lock = take_lock(announcement.with_name(f"{announcement.name}.lock"))
    if lock is None:
        running = running_up()
        where = f"its Redis socket is {running.socket}" if running else "it is starting or stopping"
        raise AlreadyRunning(f"Your `tokenlane up` is already running here ({where}). Use it, or stop it first.")
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def announced(up: RunningUp) -> Iterator[None]:
    """Let this user's other commands find a running `up` while the block runs.

    Raises:
        ConfigError: the data directory cannot be written.
    """
    announcement = _announcement(data_dir())
    with _write_errors(announcement):
        write_private(announcement, f"{up.socket}\n{up.url}\n{up.public_url or ''}")
    try:
        yield
    finally:
        announcement.unlink(missing_ok=True)


def answers(socket_path: Path) -> bool:
    """Whether a server listens on this unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(socket_path))
        except OSError:
            return False
    return True


@contextmanager
def _write_errors(announcement: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"`tokenlane up` cannot write {announcement}, where other commands look for it: {error.strerror or error}. "
            "Remove the file, or set TOKENLANE_HOME to another directory."
        ) from error


def _announcement(directory: Path) -> Path:
    # The name contains the host, since several hosts may share a home directory.
    return directory / f"up-{socket.gethostname()}"


def _home() -> Path:
    home = os.environ.get("TOKENLANE_HOME")
    if home == "":
        raise empty_variable("TOKENLANE_HOME")
    if home is not None:
        return absolute(Path(home), "TOKENLANE_HOME")
    try:
        return user_data_path("tokenlane")
    except RuntimeError as error:
        raise ConfigError("This user has no home directory: set TOKENLANE_HOME to a data directory.") from error
