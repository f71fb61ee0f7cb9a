from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from tokenlane.config.host.stop_signals import cancelled_by, on_stop_signals, stop_event, stop_signals, until_stopped


@pytest.fixture
def ignored() -> Iterator[None]:
    """A process started by `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", stop_signals())
async def test_each_asks_to_end(number: signal.Signals) -> None:
    """The innermost block hears it; once that is left, the one around it does again."""
    heard = list[signal.Signals]()
    with stop_event() as stopping:
        with on_stop_signals(heard.append):
            os.kill(os.getpid(), number)
            while not heard:
                await asyncio.sleep(0)
            assert not stopping.is_set()
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stopping.wait(), 5)
    assert heard == [number]


async def test_a_signal_that_the_outer_block_left_alone_is_left_alone_again() -> None:
    """After a block that takes Ctrl-C, inside one that does not, that is a KeyboardInterrupt."""
    with on_stop_signals(lambda _: None, interrupt=False):
        with stop_event():
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("ignored")
async def test_an_ignored_hang_up_is_none() -> None:
    assert signal.SIGHUP not in stop_signals()
    with stop_event() as stopping:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0)
        assert not stopping.is_set()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_work_is_cancelled(number: signal.Signals) -> None:
    """By all but Ctrl-C, which Python itself makes an exception of."""
    cancelled = asyncio.Event()

    async def work() -> None:
        os.kill(os.getpid(), number)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    assert await until_stopped(work()) == number
    assert cancelled.is_set()
    assert signal.SIGINT not in stop_signals(interrupt=False)


async def test_a_block_is_broken_off() -> None:
    """What it awaits is cancelled when the event is set, and the block ends without an error."""
    stopping, ended = asyncio.Event(), False
    async with cancelled_by(stopping):
        stopping.set()
        await asyncio.Event().wait()
        ended = True
    assert not ended


async def test_a_block_that_ends_by_itself_is_not_broken_off() -> None:
    """Nor is a time-out of its work taken for that."""
    stopping = asyncio.Event()
    async with cancelled_by(stopping):
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with cancelled_by(stopping):
            raise TimeoutError
