"""Reacts to the signals that ask a process to end: Ctrl-C, `kill` and a closed terminal.

A closing terminal sends SIGHUP. If SIGHUP is ignored when the process starts, as under `nohup`, it stays ignored.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar

_STDIN = 0
_Handler = Callable[[signal.Signals], object]

_NONE: Mapping[signal.Signals, _Handler] = {}
_handlers: ContextVar[Mapping[signal.Signals, _Handler]] = ContextVar("by signal, of the open blocks", default=_NONE)


@contextmanager
def on_stop_signals(then: _Handler, *, interrupt: bool = True) -> Iterator[None]:
    """Call `then` with each signal that asks this process to end, while the block runs.

    If blocks are nested, only the innermost block gets the signal.

    Args:
        interrupt: handle SIGINT too; otherwise Ctrl-C raises KeyboardInterrupt as usual.
    """
    loop, outer = asyncio.get_running_loop(), _handlers.get()
    numbers = stop_signals(interrupt=interrupt)
    token = _handlers.set({**outer, **dict.fromkeys(numbers, then)})
    with suppress(NotImplementedError):  # on Windows, where Ctrl-C cancels the main task
        for number in numbers:
            loop.add_signal_handler(number, then, number)
    try:
        yield
    finally:
        _handlers.reset(token)
        with suppress(NotImplementedError):
            for number in numbers:
                if number in outer:
                    loop.add_signal_handler(number, outer[number], number)
                else:
                    loop.remove_signal_handler(number)


@contextmanager
def stop_event(*, or_when_input_ends: bool = False) -> Iterator[asyncio.Event]:
    """Yield an event that is set when this process is asked to end.

    Args:
        or_when_input_ends: also set the event when standard input ends. If standard input is a pipe from the parent
            process, it ends when that process dies.
    """
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()

    def read() -> None:
        try:
            more = os.read(_STDIN, 4096)
        except OSError:  # the terminal was closed
            more = b""
        if not more:
            loop.remove_reader(_STDIN)
            stopping.set()

    with on_stop_signals(lambda _: stopping.set()):
        if or_when_input_ends:
            loop.add_reader(_STDIN, read)
        try:
            yield stopping
        finally:
            if or_when_input_ends:
                loop.remove_reader(_STDIN)


@asynccontextmanager
async def cancelled_by(stopping: asyncio.Event) -> AsyncIterator[None]:
    """Cancel the block when the event is set. The block then ends early, without an error."""
    limit = asyncio.timeout(None)

    async def watch() -> None:
        await stopping.wait()
        limit.reschedule(0)

    try:
        async with limit:
            watching = asyncio.create_task(watch(), name="tokenlane stop")
            try:
                yield
            finally:
                watching.cancel()
    except TimeoutError:
        if not limit.expired():
            raise


async def until_stopped(work: Coroutine[object, object, None]) -> signal.Signals | None:
    """Await `work`, and return None. If SIGTERM or SIGHUP arrives first, cancel the work and return the signal."""
    task, stopped = asyncio.create_task(work), list[signal.Signals]()

    def stop(number: signal.Signals) -> None:
        stopped.append(number)
        task.cancel()

    with on_stop_signals(stop, interrupt=False):
        try:
            await task
        except asyncio.CancelledError:
            if not stopped:
                raise
            return stopped[0]
    return None


def stop_signals(*, interrupt: bool = True) -> list[signal.Signals]:
    """Return the signals that ask this process to end. `interrupt`: include SIGINT."""
    signals = [signal.SIGTERM, *([signal.SIGINT] if interrupt else [])]
    hangup: signal.Signals | None = getattr(signal, "SIGHUP", None)  # not on Windows
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        signals.append(hangup)
    return signals
