"""Runs `tokenlane` commands as a person would, and finds what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.child_output import shown_on_failure

TIMEOUT_S = 60.0


class Command:
    """A running command. Its standard output is read as it comes, so it never blocks."""

    def __init__(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        stdin: int = subprocess.DEVNULL,
        folder: Path | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            arguments,
            cwd=folder,
            env=environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def output(self) -> str:
        """What it has said so far, errors included."""
        return "".join(self._lines)

    def says(self, text: str) -> None:
        """Wait until it has said this."""
        with self._news:
            self._news.wait_for(lambda: text in self.output or self._ended, TIMEOUT_S)
        assert text in self.output, f"{text!r} is not in:\n{self.output}"

    def ends(self) -> int:
        """Wait for its end; its exit code."""
        code = self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        return code

    def kill(self) -> None:
        """End it, and all of its session, at once."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                with self._news:
                    self._lines.append(line)
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


@contextmanager
def running(*arguments: str, home: Path, **environment: str) -> Iterator[Command]:
    """`tokenlane` with these arguments; killed at the end if it still runs."""
    command = Command([sys.executable, "-m", "tokenlane.config", *arguments], surroundings(home, **environment))
    with shown_on_failure(lambda: command.output):
        try:
            yield command
        finally:
            command.kill()


def surroundings(home: Path, **more: str) -> dict[str, str]:
    """The environment of a command: this one, with a home of its own and without what points elsewhere.

    The model is the built-in one, whatever else this host has.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOKENLANE_")}
    ours = {"TOKENLANE_HOME": str(home), "TOKENLANE_DEFAULTS__PROVIDER": "builtin", "PYTHONUNBUFFERED": "1"}
    return {**kept, **ours, **more}


def left_running(home: Path) -> list[str]:
    """The processes that run with this home (where /proc can tell)."""
    mark = f"TOKENLANE_HOME={home}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return found
