"""Where this user's things are, and how a running `tokenlane up` is found by the user's other commands."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_data_path

from tokenlane.config.exits import ConfigError
from tokenlane.config.private import write_private

__all__ = ["AlreadyRunning", "announced_socket", "announced_url", "announcing", "answers", "data_dir"]


class AlreadyRunning(ConfigError):
    """This user's `tokenlane up` runs on this host already."""


def data_dir() -> Path:
    """Return the user's data directory, made private if it is not there yet. `TOKENLANE_HOME` overrides it.

    Raises:
        ConfigError: if it cannot be made.
    """
    home = os.environ.get("TOKENLANE_HOME")
    path = Path(home).absolute() if home else user_data_path("tokenlane")
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
    try:
        path = Path(_announcement().read_text(encoding="utf-8").partition("\n")[0])
    except FileNotFoundError:
        return None
    return path if answers(path) else None


def announced_url() -> str | None:
    """Return the Redis URL of this user's running `tokenlane up`, password included; None if none answers."""
    if announced_socket() is None:
        return None
    return _announcement().read_text(encoding="utf-8").partition("\n")[2]


@contextmanager
def announcing(socket_path: Path, url: str | None = None) -> Iterator[None]:
    """Tell this user's other commands of `socket_path` for as long as the block runs.

    Args:
        url: its Redis URL, if it takes more than the path.

    Raises:
        AlreadyRunning: if another one is announced and answers.
    """
    running = announced_socket()
    if running is not None and running != socket_path:
        raise AlreadyRunning(f"`tokenlane up` runs already (its Redis is {running}). Use it, or stop it first.")
    announcement = _announcement()
    write_private(announcement, f"{socket_path}\n{url or f'unix://{socket_path}'}")
    try:
        yield
    finally:
        announcement.unlink(missing_ok=True)


def answers(socket_path: Path) -> bool:
    """Whether somebody listens on this unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(socket_path))
        except OSError:
            return False
    return True


def _announcement() -> Path:
    # Named by host: a home directory may be shared by many.
    return data_dir() / f"up-{socket.gethostname()}"
