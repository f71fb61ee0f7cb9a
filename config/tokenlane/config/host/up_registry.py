"""Where this user's things are, and how a running `tokenlane up` is found by the user's other commands."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_data_path

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.bounded_files import read_file
from tokenlane.config.host.paths import absolute, empty_variable
from tokenlane.config.host.private_files import write_private
from tokenlane.config.host.process_lock import take_lock
from tokenlane.config.host.socket_urls import socket_url

_MOST_BYTES = 65536


class AlreadyRunning(ConfigError):
    """This user's `tokenlane up` runs on this host already."""


def data_dir() -> Path:
    """Return the user's data directory, made private if it is not there yet. `TOKENLANE_HOME` overrides it.

    Raises:
        ConfigError: if it cannot be made.
    """
    path = _home()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The data directory {path} cannot be made: {error.strerror or error}. "
            "Let TOKENLANE_HOME name a directory you may write to."
        ) from error
    return path


def announced_socket() -> Path | None:
    """Return the Redis socket of this user's running `tokenlane up`, or None if there is none or it does not answer."""
    told = _told()
    return told[0] if told is not None and answers(told[0]) else None


def announced_url() -> str | None:
    """Return the Redis URL of this user's running `tokenlane up`, password included; None if none answers."""
    told = _told()
    return told[1] if told is not None and answers(told[0]) else None


def announced_public_url(url: str) -> str | None:
    """Return the URL at which other hosts reach the server of this user's running `tokenlane up`, password included;
    None if it is another server than that at `url`, or has none."""
    if announced_url() != url:
        return None
    try:
        return read_file(_public(_announcement(_home())), _MOST_BYTES).decode()
    except (OSError, UnicodeDecodeError):
        return None


@contextmanager
def alone() -> Iterator[None]:
    """Be this user's only `tokenlane up` on this host for as long as the block runs.

    Raises:
        AlreadyRunning: there is another.
        ConfigError: the data directory cannot be written.
    """
    announcement = _announcement(data_dir())
    with _told_if_refused(announcement):
        lock = take_lock(announcement.with_name(f"{announcement.name}.lock"))
    if lock is None:
        raise _already(announced_socket())
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def announcing(socket_path: Path, url: str | None = None, public_url: str | None = None) -> Iterator[None]:
    """Tell this user's other commands of `socket_path` for as long as the block runs.

    Args:
        url: its Redis URL, if it takes more than the path.
        public_url: the one for other hosts, if there is one.

    Raises:
        AlreadyRunning: if another one is announced and answers.
        ConfigError: the data directory cannot be written.
    """
    running = announced_socket()
    if running is not None and running != socket_path:
        raise _already(running)
    announcement = _announcement(data_dir())
    with _told_if_refused(announcement):
        # A file of its own: older commands read the other one.
        if public_url is None:
            _public(announcement).unlink(missing_ok=True)
        else:
            write_private(_public(announcement), public_url)
        write_private(announcement, f"{socket_path}\n{url or socket_url(socket_path)}")
    try:
        yield
    finally:
        announcement.unlink(missing_ok=True)
        _public(announcement).unlink(missing_ok=True)


def answers(socket_path: Path) -> bool:
    """Whether somebody listens on this unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(socket_path))
        except OSError:
            return False
    return True


def _told() -> tuple[Path, str] | None:
    """The announced socket and URL; None if none is announced, or not by us."""
    try:
        path, _, url = read_file(_announcement(_home()), _MOST_BYTES).decode().partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return Path(path), url


@contextmanager
def _told_if_refused(announcement: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"`up` announces itself in {announcement}, which cannot be written: {error.strerror or error}. "
            "Remove it, or let TOKENLANE_HOME name another directory."
        ) from error


def _already(socket_path: Path | None) -> AlreadyRunning:
    where = f"its Redis is {socket_path}" if socket_path else "it is just starting or stopping"
    return AlreadyRunning(f"`tokenlane up` runs already ({where}). Use it, or stop it first.")


def _public(announcement: Path) -> Path:
    return announcement.with_name(f"{announcement.name}.public")


def _announcement(directory: Path) -> Path:
    # Named by host: a home directory may be shared by many.
    return directory / f"up-{socket.gethostname()}"


def _home() -> Path:
    home = os.environ.get("TOKENLANE_HOME")
    if home == "":
        raise empty_variable("TOKENLANE_HOME")
    return user_data_path("tokenlane") if home is None else absolute(Path(home), "TOKENLANE_HOME")
