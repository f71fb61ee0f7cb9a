"""Shows a picture that changes on the whole terminal, until the user presses q or Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.live import Live

try:
    import termios
    import tty
except ModuleNotFoundError:  # on Windows, where only Ctrl-C ends the command
    HAS_KEYS = False
else:
    HAS_KEYS = True

_QUIT = b"qQ\x03\x04"


@contextmanager
def live_screen(console: Console, changed: asyncio.Event, quitting: asyncio.Event) -> Iterator[Live]:
    """Take over the terminal while the block runs, and give it back as it was.

    Args:
        changed: set when the terminal's size has changed.
        quitting: set when the user presses q, or Ctrl-C or Ctrl-D as a key.
    """
    with Live(console=console, screen=True, auto_refresh=False) as live, _keys(quitting), _resizes(changed):
        yield live


@contextmanager
def _keys(quitting: asyncio.Event) -> Iterator[None]:
    """Set `quitting` when a key asks for it. Keys are read at once and not echoed."""
    if not (HAS_KEYS and sys.stdin.isatty()):
        yield
        return
    keyboard, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(keyboard)

    def read() -> None:
        try:
            keys = os.read(keyboard, 1024)
        except OSError:  # the terminal was closed
            keys = b""
        if not keys or any(key in _QUIT for key in keys):
            loop.remove_reader(keyboard)
            quitting.set()

    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, read)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        with suppress(termios.error):  # the terminal was closed
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


@contextmanager
def _resizes(changed: asyncio.Event) -> Iterator[None]:
    number: signal.Signals | None = getattr(signal, "SIGWINCH", None)  # not on Windows
    if number is None:
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(number, changed.set)
    try:
        yield
    finally:
        loop.remove_signal_handler(number)
