"""The signals that ask a process to end, taken alike by all that runs for long: Ctrl-C, `kill`, a closed terminal; and
work that is given up then.

SIGHUP is what the processes of a terminal are sent when it closes. Where it is ignored from the start, as `nohup` has
it, it stays so.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from contextvars import ContextVar

_STDIN = 0
_Handler = Callable[[signal.Signals], object]

_NONE: Mapping[signal.Signals, _Handler] = {}
_handlers: ContextVar[Mapping[signal.Signals, _Handler]] = ContextVar("by signal, of the open blocks", default=_NONE)


@contextmanager
def on_stop_signals(then: _Handler, *, interrupt: bool = True) -> Iterator[None]:
    """Call `then` with each signal that asks this process to end, for as long as the block runs; blocks may be nested.

    Args:
        interrupt: SIGINT as well; otherwise Ctrl-C stays a KeyboardInterrupt.
    """
    loop, outer = asyncio.get_running_loop(), _handlers.get()
    numbers = stop_signals(interrupt=interrupt)
    token = _handlers.set({**outer, **dict.fromkeys(numbers, then)})
    with suppress(NotImplementedError):  # Windows: Ctrl-C cancels
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
def told_to_stop(*, or_when_input_ends: bool = False) -> Iterator[asyncio.Event]:
    """An event that is set when this process is asked to end.

    Args:
        or_when_input_ends: standard input is a pipe from whoever started this process: its end asks so too, which comes
            however that process dies.
    """
    stopping = asyncio.Event()
    with on_stop_signals(lambda _: stopping.set()):
        with _when_input_ends(stopping.set) if or_when_input_ends else nullcontext():
            yield stopping


@contextmanager
def _when_input_ends(then: Callable[[], object]) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            more = os.read(_STDIN, 4096)
        except OSError:  # of a terminal that was closed
            more = b""
        if not more:
            loop.remove_reader(_STDIN)
            then()

    loop.add_reader(_STDIN, read)
    try:
        yield
    finally:
        loop.remove_reader(_STDIN)


@asynccontextmanager
async def broken_off(stopping: asyncio.Event) -> AsyncIterator[None]:
    """Cancel what the block awaits when the event is set; the block then ends early, without an error."""
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
    """Do the work, unless a signal other than Ctrl-C's cancels it; that signal."""
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
    """The signals that ask this process to end; SIGINT among them only if wanted."""
    named = [signal.SIGTERM, *([signal.SIGINT] if interrupt else [])]
    hangup: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        named.append(hangup)
    return named
