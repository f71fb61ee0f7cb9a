"""Questions of a conversation get their turns one after another."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.producer import ConversationBusy, RequestCancelled
from tokenlane.producer.conversation.one_at_a_time import OnBusy, OneAtATime

Step = Literal["ask", "leave", "give up"]


class Table:
    """Questions, numbered in the order in which they were asked, and what became of them."""

    def __init__(self, on_busy: OnBusy) -> None:
        self.order = OneAtATime(on_busy)
        self.tasks: list[asyncio.Task[None]] = []
        self.had_turn: list[int] = []
        self.running: int | None = None

    async def ask(self) -> None:
        number = len(self.tasks)
        self.tasks.append(asyncio.create_task(self._wait(number)))
        await settled()

    async def leave(self) -> None:
        if self.running is not None:
            self._end()
        await settled()

    async def give_up(self) -> None:
        for task in self.tasks:
            if not task.done():
                task.cancel()
                break
        await settled()

    async def stop(self, number: int) -> None:
        assert self.running == number
        await asyncio.sleep(0)
        self._end()

    def outcome(self, number: int) -> type[BaseException] | None:
        task = self.tasks[number]
        if task.cancelled():
            return asyncio.CancelledError
        error = task.exception()
        return None if error is None else type(error)

    async def _wait(self, number: int) -> None:
        await self.order.enter(partial(self.stop, number))
        assert self.running is None, "two have their turn"
        self.running = number
        self.had_turn.append(number)

    def _end(self) -> None:
        self.running = None
        self.order.leave()


async def settled() -> None:
    """Let all tasks go on until they wait."""
    for _ in range(8):
        await asyncio.sleep(0)


@given(st.sampled_from(["queue", "reject", "interrupt"]), st.lists(st.sampled_from(["ask", "leave", "give up"])))
def test_any_order_of_events(on_busy: OnBusy, steps: list[Step]) -> None:
    """One question has its turn at a time, in the order of asking, and none waits while none has its turn."""

    async def play() -> None:
        table = Table(on_busy)
        for step in steps:
            await getattr(table, step.replace(" ", "_"))()
            waiting = [task for task in table.tasks if not task.done()]
            assert table.running is not None or not waiting
            assert on_busy == "queue" or not waiting
        while table.running is not None:
            await table.leave()
        assert table.had_turn == sorted(table.had_turn)
        outcomes = {number: table.outcome(number) for number in range(len(table.tasks))}
        refused = {number for number, outcome in outcomes.items() if outcome is not None}
        assert refused == set(outcomes) - set(table.had_turn)
        expected = {"queue": asyncio.CancelledError, "reject": ConversationBusy}.get(on_busy)
        assert {outcomes[number] for number in refused} <= {expected}

    asyncio.run(play())


async def test_an_interruption_refuses_those_that_wait() -> None:
    """The newest question is asked, also if the one before it has not been sent yet."""
    order, ended = OneAtATime("interrupt"), asyncio.Event()

    async def stop() -> None:
        await ended.wait()
        order.leave()

    await order.enter(stop)
    second = asyncio.create_task(order.enter(stop))
    await settled()
    third = asyncio.create_task(order.enter(stop))
    await settled()
    assert not second.done()
    ended.set()
    await third
    with pytest.raises(RequestCancelled):
        await second
