"""`tokenlane top` on a terminal, and without one."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.integration import life
from tests.integration.farm import Server, environment
from tests.integration.life import LANE, WORKER
from tests.verbs import run_in_thread

from tokenlane.config import exit_codes as exits
from tokenlane.routing.store.pool import Pool, connect

_CODE = "from tokenlane.config.cli.root import main\nmain()\n"
_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """A command on a terminal of its own. `picture`: what it drew last, without the codes that place and colour it."""

    def __init__(self, process: Process, terminal: int) -> None:
        self.process, self._terminal = process, terminal
        self._drawn = bytearray()
        self._more = asyncio.Event()
        asyncio.get_running_loop().add_reader(terminal, self._read)

    @property
    def picture(self) -> str:
        return _CONTROLS.sub("", self._drawn.rpartition(b"\x1b[H")[2].decode(errors="replace"))

    @property
    def is_left(self) -> bool:
        """Whether the terminal shows again what it showed before the command."""
        return self._drawn.rfind(b"\x1b[?1049l") > self._drawn.rfind(b"\x1b[?1049h")

    def press(self, key: bytes) -> None:
        os.write(self._terminal, key)

    def resize(self, columns: int, lines: int) -> None:
        _set_size(self._terminal, columns, lines)
        self.process.send_signal(signal.SIGWINCH)

    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self._terminal)[3] & termios.ECHO)

    async def shows(self, *texts: str, without: str = "\0", width: int = 150) -> None:
        """Wait for a picture with these texts, and without another, in which no line is wider."""
        async with asyncio.timeout(30):
            while not (
                all(text in self.picture for text in texts)
                and without not in self.picture
                and all(len(line) <= width for line in self.picture.splitlines())
            ):
                self._more.clear()
                await self._more.wait()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._terminal)
        os.close(self._terminal)

    def _read(self) -> None:
        try:
            self._drawn += os.read(self._terminal, 65_536)
        except OSError:  # the command has ended
            asyncio.get_running_loop().remove_reader(self._terminal)
        self._more.set()


@asynccontextmanager
async def top(url: str, columns: int = 150, lines: int = 40, term: str = "xterm-256color") -> AsyncIterator[Screen]:
    """The command on a terminal of that size and kind."""
    ours, theirs = pty.openpty()
    _set_size(ours, columns, lines)
    variables = environment() | {"TERM": term}
    for name in ("NO_COLOR", "COLUMNS", "LINES"):  # the size is the terminal's, and pytest-xdist sets COLUMNS
        variables.pop(name, None)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _CODE, "top", "--redis", url),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env=variables,
    )
    screen = Screen(process, ours)
    try:
        yield screen
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        screen.close()
        os.close(theirs)


def _set_size(terminal: int, columns: int, lines: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


async def test_one_picture_without_a_terminal(pool: Pool) -> None:
    """It has the role, why its requests wait, and the lane with its load, as plain text."""
    await life.running(pool)
    await life.submit(pool)
    await pool.pause_role("planner")
    ended = await run_in_thread("top", "--redis", pool.server.url)
    assert (ended.code, ended.error) == (exits.OK, "")
    assert "\x1b" not in ended.out
    assert "operator paused role 'planner'" in ended.out
    assert re.search(r"^planner +paused +1 ", ended.out, re.MULTILINE)
    assert re.search(rf"^{LANE.lane} +up +\S+ 1/2 ", ended.out, re.MULTILINE)


async def test_the_history_begins_with_the_command(pool: Pool) -> None:
    """Of the two minutes before it, the one picture shows nothing."""
    await life.submit(pool)
    ended = await run_in_thread("top", "--redis", pool.server.url)
    assert "▁" not in ended.out
    assert " █ " in ended.out


async def test_a_terminal_that_cannot_redraw(pool: Pool) -> None:
    """It gets one picture, like a pipe."""
    await life.running(pool)
    async with top(pool.server.url, term="dumb") as screen:
        async with asyncio.timeout(20):
            assert await screen.process.wait() == exits.OK
        await screen.shows(LANE.lane)


async def test_a_pool_without_anything(pool: Pool) -> None:
    """The headline says that there is no router, and nothing else is shown."""
    ended = await run_in_thread("top", "--redis", pool.server.url)
    assert ended.code == exits.OK
    assert "no router" in ended.out.lower()


async def test_it_follows_the_pool_until_q(pool: Pool) -> None:
    """A change is on the screen with the next look; a narrow terminal gets another picture; q ends the command."""
    await life.running(pool)
    async with top(pool.server.url) as screen:
        await screen.shows("planner", LANE.lane)
        assert not screen.echoes()
        await life.submit(pool)
        await pool.drain_lane(LANE.lane)
        await pool.beats.register(WORKER, LANE.lane, life.FACTS)
        await screen.shows("planner is stuck", f"Lane '{LANE.lane}'", "tokenlane lanes resume")
        screen.resize(60, 30)
        await screen.shows("planner is stuck", width=60)
        screen.press(b"q")
        async with asyncio.timeout(20):
            assert await screen.process.wait() == exits.OK
        assert screen.is_left


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signals_end_it(pool: Pool, number: signal.Signals) -> None:
    """Ctrl-C is the usual way to leave, so it is no failure."""
    async with top(pool.server.url) as screen:
        await screen.shows("pool main")
        screen.process.send_signal(number)
        async with asyncio.timeout(20):
            assert await screen.process.wait() == exits.OK


@pytest.mark.kills
async def test_an_outage(tmp_path: Path) -> None:
    """A line says that the pool does not answer, above the last figures; then the figures are new again."""
    server = Server(tmp_path)
    async with server, connect(server.url) as pool:
        await life.submit(pool)
        async with top(server.url) as screen:
            await screen.shows("planner")
            await server.kill()
            await screen.shows("has not answered for", "planner")
            await server.start()
            await screen.shows("pool main", "planner", without="has not answered")
