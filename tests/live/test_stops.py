"""Commands that are stopped, or killed, while the built-in model is fetched or loaded."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tokenlane.worker.builtin import model

from .commands import TIMEOUT_S, left_running, running

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

START = {"up": ["up", "--provider", "builtin"], "demo": ["demo"], "worker": ["worker", "--provider", "builtin"]}
PROVIDER = {"TOKENLANE_PROVIDER": "builtin"}


class StuckIndex:
    """A package index that takes connections and says nothing; `asked` is set by the first one."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """What makes pip ask here and nowhere else."""
        url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/simple"
        elsewhere = {"PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "PIP_CONFIG_FILE": os.devnull}
        return {"PIP_INDEX_URL": url, "NO_PROXY": "127.0.0.1", **elsewhere, **PROVIDER}

    def close(self) -> None:
        """Close all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._held:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._held.append(connection)
            self.asked.set()


@pytest.fixture
def index() -> Iterator[StuckIndex]:
    index = StuckIndex()
    yield index
    index.close()


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for what other processes do."""
    until = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("verb", "stop", "code"),
    [
        ("up", signal.SIGINT, 0),
        ("up", signal.SIGTERM, 0),
        ("demo", signal.SIGINT, 130),
        ("worker", signal.SIGTERM, 0),
    ],
)
def test_stopped_while_the_model_is_fetched(
    verb: str, stop: signal.Signals, code: int, home: Path, index: StuckIndex, redis_url: str
) -> None:
    """A signal to all of a terminal's processes ends the command, which blames nothing and leaves nothing."""
    (home / "models" / model.FILE_NAME).unlink()
    redis = {"TOKENLANE_REDIS_URL": redis_url} if verb == "worker" else {}
    with running(*START[verb], home=home, **index.environment, **redis) as command:
        assert index.asked.wait(TIMEOUT_S), command.output
        os.killpg(command.process.pid, stop)
        assert command.ends() == code, command.output
        for wrong in ("could not be", "cancelled by user", "Traceback"):
            assert wrong not in command.output
        assert not left_running(home)
        assert not list((home / "models").glob("fetch-*"))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_the_model_is_loaded(stop: signal.Signals, home: Path) -> None:
    """So it is when the model server starts."""
    with running(*START["up"], home=home) as up:
        wait_for(lambda: any("tokenlane.worker.builtin" in process for process in left_running(home)))
        os.killpg(up.process.pid, stop)
        assert up.ends() == 0, up.output
        for wrong in ("did not start", "Traceback"):
            assert wrong not in up.output
        assert not left_running(home)


@pytest.mark.parametrize("verb", ["up", "demo", "worker"])
@pytest.mark.kills
def test_killed_while_the_model_is_fetched(verb: str, home: Path, index: StuckIndex, redis_url: str) -> None:
    """The download ends with who wanted it, and leaves no file."""
    (home / "models" / model.FILE_NAME).unlink()
    redis = {"TOKENLANE_REDIS_URL": redis_url} if verb == "worker" else {}
    with running(*START[verb], home=home, **index.environment, **redis) as command:
        assert index.asked.wait(TIMEOUT_S), command.output
        command.process.kill()
        command.process.wait()
        wait_for(lambda: not left_running(home))
        assert not list((home / "models").glob("fetch-*"))


@pytest.mark.parametrize("options", [[], ["--check"]])
def test_no_model_is_fetched_for_a_pool_that_is_not_there(options: list[str], home: Path, index: StuckIndex) -> None:
    """A worker without a pool says so at once, and not after a download."""
    (home / "models" / model.FILE_NAME).unlink()
    nowhere = {"TOKENLANE_REDIS_URL": "redis://127.0.0.1:1"}
    with running("worker", *options, home=home, **index.environment, **nowhere) as command:
        assert command.ends() == 2
        assert "No Redis server answers" in command.output
        assert not index.asked.is_set()
