from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import PydanticSerializationError
from tests.traces import recorded_spans
from tests.waiting import until
from tests.workshop import Asker

from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.routing.contract.answers import TokenDelta, TokenLogprob, ToolCallDelta, TopLogprob, Usage
from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.contract.messages import Completed, Deltas, channel_message
from tokenlane.routing.store.keychain import Keychain
from tokenlane.routing.store.keys import Keys
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.support.tasks import background
from tokenlane.routing.telemetry import conventions as names
from tokenlane.routing.telemetry.batches import batch_spans
from tokenlane.routing.telemetry.tracer import tracer
from tokenlane.worker.lane.attempt_key import AttemptKey
from tokenlane.worker.lane.outlet import Outlet
from tokenlane.worker.lane.publisher import UNFLUSHED_BYTES, Publisher
from tokenlane.worker.lane.replay_memory import KEPT_BYTES, MissedEndings
from tokenlane.worker.lane.timings import Timings

ID, ATTEMPT = "0" * 32, 7


class FakePool:
    """Counts and keeps published messages, or loses them as the test demands."""

    def __init__(self) -> None:
        self.keys = Keys()
        self.keychain = Keychain(KeyRing(), "pool 'main'")
        self.flushes: list[list[tuple[str, bytes]]] = []
        self.failing = False
        self.losing = False
        self.open = asyncio.Event()
        self.open.set()
        self.in_flight = 0
        self.hear: Callable[[bytes], None] = lambda data: None

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        assert self.in_flight == 0, "two flushes at once"
        self.in_flight += 1
        try:
            await self.open.wait()
            await asyncio.sleep(0)
        finally:
            self.in_flight -= 1
        if self.failing:
            raise PoolUnavailable
        self.flushes.append(list(messages))
        if not self.losing:
            for _, message in messages:
                self.hear(message)


@asynccontextmanager
async def publishing(
    timings: Timings = Timings(),  # noqa: B008  # frozen
    kept_bytes: int = KEPT_BYTES,
    unflushed_bytes: int = UNFLUSHED_BYTES,
) -> AsyncIterator[tuple[Publisher, FakePool]]:
    pool = FakePool()
    publisher = Publisher(
        cast("Pool", pool), "worker1", "lane1", timings, kept_bytes=kept_bytes, unflushed_bytes=unflushed_bytes
    )
    async with background() as tasks:
        tasks.create_task(publisher.run())
        yield publisher, pool


async def turns(count: int = 10) -> None:
    """Let every task that can go on do so."""
    for _ in range(count):
        await asyncio.sleep(0)


async def complete(outlet: Outlet, asker: Asker) -> None:
    """End the request as a job does, and tell the agent as `finish` does."""
    rest = await outlet.close()
    message = Completed(
        attempt=ATTEMPT,
        worker="worker1",
        lane="lane1",
        model="m",
        first=rest.first,
        end=rest.end,
        usage=Usage(),
        deltas=rest.deltas,
    ).to_wire()
    outlet.end(message, deltas=len(rest.deltas))
    asker.take(message)


STEPS = st.one_of(
    st.tuples(st.just("put"), st.text(max_size=4)),
    st.tuples(st.just("turn"), st.integers(1, 6)),
    st.tuples(st.just("fail"), st.booleans()),
    st.tuples(st.just("lose"), st.booleans()),
    st.tuples(st.just("stall"), st.booleans()),
    st.tuples(st.just("ask"), st.none()),
)


@given(st.lists(STEPS, max_size=40))
@settings(max_examples=300, deadline=None)
def test_all_deltas_arrive_once_and_in_order(steps: list[tuple[str, object]]) -> None:
    """Whatever is lost on the way, an agent that asks for its gaps has every delta once, and the right end."""
    asyncio.run(_arrives(steps))


async def _arrives(steps: list[tuple[str, object]]) -> None:
    async with publishing() as (publisher, pool):
        asker = Asker(cast("Pool", pool))
        pool.hear = asker.take
        outlet = publisher.open(ID, ATTEMPT, "m")
        produced: list[str] = []
        for name, value in steps:
            match name, value:
                case "put", str(text):
                    produced.append(text)
                    outlet.put(TokenDelta(text=text))
                case "turn", int(count):
                    await turns(count)
                case "fail", bool(wanted):
                    pool.failing = wanted
                case "lose", bool(wanted):
                    pool.losing = wanted
                case "stall", bool(wanted):
                    pool.open.clear() if wanted else pool.open.set()
                case "ask", _:
                    publisher.replay(ID, ATTEMPT, len(asker.text))
            assert asker.text == produced[: len(asker.text)]
        pool.open.set()
        pool.failing = pool.losing = False
        await complete(outlet, asker)
        ending = asker.ending
        assert isinstance(ending, Completed)
        assert ending.end == len(produced)
        if len(asker.text) < ending.end:
            publisher.replay(ID, ATTEMPT, len(asker.text))
            await until(lambda: len(asker.text) == len(produced), 5)
        assert asker.text == produced


async def test_the_first_delta_goes_at_once_and_the_next_flush_takes_all_waiting_deltas() -> None:
    """While a flush is in flight, all streams wait for the next one, which has one message for each of them."""
    async with publishing() as (publisher, pool):
        outlets = [publisher.open(f"{number:032x}", ATTEMPT, "m") for number in range(3)]
        outlets[0].put(TokenDelta(text="first"))
        pool.open.clear()
        await turns()
        for outlet in outlets:
            for text in ("x", "y"):
                outlet.put(TokenDelta(text=text))
        pool.open.set()
        await until(lambda: len(pool.flushes) == 2)
        first, second = ([channel_message(data) for _, data in flush] for flush in pool.flushes)
        assert [len(message.deltas) for message in first if isinstance(message, Deltas)] == [1]
        assert [(message.first, len(message.deltas)) for message in second if isinstance(message, Deltas)] == [
            (1, 2),
            (0, 2),
            (0, 2),
        ]


NEVER_ALONE = Timings(batch_wait_s=60)


async def begun(publisher: Publisher, pool: FakePool, count: int) -> list[Outlet]:
    """Answers whose first deltas have been published."""
    outlets = [publisher.open(f"{number:032x}", ATTEMPT, "m") for number in range(count)]
    for outlet in outlets:
        outlet.put(TokenDelta(text="first"))
    await until(lambda: len(pool.flushes) == 1)
    return outlets


async def test_a_delta_waits_until_every_answer_has_a_delta() -> None:
    """Deltas after the first share a publish: the flush starts when the last running answer has one, not before."""
    async with publishing(NEVER_ALONE) as (publisher, pool):
        one, two, three = await begun(publisher, pool, 3)
        publisher.open(ID, ATTEMPT, "m")  # has not begun: nobody waits for it
        for outlet in (one, one, two):
            outlet.put(TokenDelta(text="more"))
        await turns()
        assert len(pool.flushes) == 1
        three.put(TokenDelta(text="more"))
        await until(lambda: len(pool.flushes) == 2)
        assert len(pool.flushes[1]) == 3


async def test_a_delta_waits_at_most_for_the_batch_wait() -> None:
    """A delta is published alone when its time is over."""
    async with publishing(Timings(batch_wait_s=0.001)) as (publisher, pool):
        one, _ = await begun(publisher, pool, 2)
        one.put(TokenDelta(text="more"))
        await until(lambda: len(pool.flushes) == 2)


async def test_the_first_delta_of_an_answer_does_not_wait() -> None:
    """It is published at once, together with all waiting deltas."""
    async with publishing(NEVER_ALONE) as (publisher, pool):
        one, _ = await begun(publisher, pool, 2)
        one.put(TokenDelta(text="more"))
        await turns()
        assert len(pool.flushes) == 1
        publisher.open(ID, ATTEMPT, "m").put(TokenDelta(text="first"))
        await until(lambda: len(pool.flushes) == 2)
        assert len(pool.flushes[1]) == 2


async def test_a_lone_answer_does_not_wait() -> None:
    """After the other answers have ended, each of its deltas is published at once."""
    async with publishing(NEVER_ALONE) as (publisher, pool):
        one, two = await begun(publisher, pool, 2)
        two.put(TokenDelta(text="last"))
        assert [delta.text for delta in (await two.close()).deltas] == ["last"]
        for count in (2, 3):
            one.put(TokenDelta(text="more"))
            await until(lambda count=count: len(pool.flushes) == count)  # type: ignore[misc]  # a default


async def test_close_waits_for_the_flush_and_returns_the_unpublished_deltas() -> None:
    """Deltas in a flush in flight are not returned; later deltas are returned and not published."""
    async with publishing() as (publisher, pool):
        outlet = publisher.open(ID, ATTEMPT, "m")
        pool.open.clear()
        outlet.put(TokenDelta(text="a"))
        await turns()
        outlet.put(TokenDelta(text="b"))
        closing = asyncio.create_task(outlet.close())
        await turns()
        assert not closing.done()
        pool.open.set()
        rest = await closing
        assert (rest.first, [delta.text for delta in rest.deltas], rest.end) == (1, ["b"], 2)
        await turns()
        assert len(pool.flushes) == 1


@pytest.mark.parametrize("carried", [0, 1])
async def test_only_deltas_that_a_message_carries_count(monkeypatch: pytest.MonkeyPatch, carried: int) -> None:
    """The last deltas of an answer are sent with its end, unless it was cancelled: then they count and show nowhere."""
    spans = recorded_spans(monkeypatch)
    async with publishing(NEVER_ALONE) as (publisher, pool):
        await begun(publisher, pool, 1)
        outlet = publisher.open(ID, ATTEMPT, "m")
        outlet.batch_spans = batch_spans(tracer().start_span("llm.attempt"), "all")
        outlet.put(TokenDelta(text="a"))
        await until(lambda: len(pool.flushes) == 2)
        before = publisher.deltas
        outlet.put(TokenDelta(text="b"))
        await outlet.close()
        outlet.end(b"{}", deltas=carried)
        assert (publisher.deltas - before, outlet.unsent) == (carried, 1 - carried)
        positions = [dict(span.attributes or {})[names.FIRST_POSITION] for span in spans.get_finished_spans()]
        assert positions == [0, 1][: 1 + carried]


@pytest.mark.parametrize(("last", "published"), [("text", 2), ("more reasoning", 1)])
async def test_close_publishes_the_first_text_after_reasoning(last: str, published: int) -> None:
    """Otherwise an answer that breaks off there could not be continued."""
    async with publishing(Timings(batch_wait_s=60)) as (publisher, pool):
        await begun(publisher, pool, 1)  # another answer, for whose deltas this one waits
        outlet = publisher.open(ID, ATTEMPT, "m")
        outlet.put(TokenDelta(reasoning="hm"))
        await until(lambda: len(pool.flushes) == 2)
        outlet.put(TokenDelta(text="a") if last == "text" else TokenDelta(reasoning="so"))
        rest = await outlet.close()
    assert (rest.first, rest.end) == (published, 2)
    assert outlet.obstacle == ("" if last == "text" else "reasoning")


async def test_a_full_outlet_makes_its_stream_wait() -> None:
    """An outlet beyond its limit has no room until a flush has taken its deltas."""
    async with publishing(unflushed_bytes=100) as (publisher, pool):
        outlet = publisher.open(ID, ATTEMPT, "m")
        pool.open.clear()
        outlet.put(TokenDelta(text="x"))
        await turns()
        before = outlet.is_full
        outlet.put(TokenDelta(text="y" * 100))
        assert (before, outlet.is_full) == (False, True)
        room = asyncio.create_task(outlet.wait_for_room())
        await turns()
        assert not room.done()
        pool.open.set()
        async with asyncio.timeout(5):
            await room


async def test_memory_is_bounded_oldest_ended_first() -> None:
    """The attempts that ended first are forgotten first. Running attempts lose their oldest output only after that."""
    async with publishing(kept_bytes=3000) as (publisher, pool):
        asker = Asker(cast("Pool", pool))
        for number in range(4):
            outlet = publisher.open(f"{number:032x}", ATTEMPT, "m")
            outlet.put(TokenDelta(text="x" * 800))
            await until(lambda number=number: len(pool.flushes) == number + 1)  # type: ignore[misc]  # a default
            await complete(outlet, asker)
        known = [publisher.replay(f"{number:032x}", ATTEMPT, 0) for number in range(4)]
        assert known == [False, False, True, True]
        running = publisher.open(ID, ATTEMPT + 1, "m")
        for _ in range(5):
            running.put(TokenDelta(text="y" * 800))
            await turns(20)
        assert publisher.report().kept_bytes <= 3000
        assert publisher.replay(ID, ATTEMPT + 1, 0)


async def test_ended_attempts_are_forgotten_after_their_time() -> None:
    """The output of an ended attempt is kept for `kept_s`; that of a discarded attempt is deleted at once."""
    async with publishing(Timings(kept_s=0.01)) as (publisher, pool):
        asker = Asker(cast("Pool", pool))
        outlet = publisher.open(ID, ATTEMPT, "m")
        await complete(outlet, asker)
        assert publisher.replay(ID, ATTEMPT, 0)
        await until(lambda: not publisher.replay(ID, ATTEMPT, 0))
        publisher.open(ID, ATTEMPT + 1, "m").discard()
        assert not publisher.replay(ID, ATTEMPT + 1, 0)
        assert publisher.report().kept_bytes == 0


HALF = "\ud83d"
OTHER = TopLogprob(token=HALF, logprob=-2)


@pytest.mark.parametrize(
    "delta",
    [
        TokenDelta(text=HALF),
        TokenDelta(reasoning=HALF),
        TokenDelta(tool_calls=(ToolCallDelta(arguments=HALF),)),
        TokenDelta(tool_calls=(ToolCallDelta(extra_content={"a": HALF}),)),
        TokenDelta(text="a", logprobs=(TokenLogprob(token=HALF, logprob=-1),)),
        TokenDelta(text="a", logprobs=(TokenLogprob(token="a", logprob=-1, top_logprobs=(OTHER,)),)),
        TokenDelta(text="a", model=HALF),
        TokenDelta(text="a", lane=HALF),
    ],
    ids=["text", "reasoning", "arguments", "extra content", "token", "other token", "model", "any other field"],
)
async def test_half_a_surrogate_pair_fails_its_own_request_only(delta: TokenDelta) -> None:
    """A delta that cannot be JSON is refused by `put`, so the flush of other answers goes on."""
    async with publishing() as (publisher, pool):
        outlet = publisher.open(ID, ATTEMPT, "m")
        with pytest.raises((UnicodeEncodeError, PydanticSerializationError)):
            outlet.put(delta)
        outlet.put(TokenDelta(text="fine"))
        await until(lambda: len(pool.flushes) == 1)


async def test_missed_endings_are_waited_for_until_they_are_replayed() -> None:
    """Only a published replay counts. Endings that nobody asks for in time are given up, and so are all on request."""
    missed = MissedEndings(60)
    await missed.wait()
    missed.add(AttemptKey(ID, ATTEMPT))
    missed.add(AttemptKey(ID, ATTEMPT + 1))
    waiting = asyncio.create_task(missed.wait())
    await asyncio.sleep(0)
    missed.discard([AttemptKey(ID, ATTEMPT)])
    await asyncio.sleep(0)
    assert not waiting.done()
    missed.discard([AttemptKey(ID, ATTEMPT + 1)])
    await waiting
    missed.add(AttemptKey(ID, ATTEMPT))
    waiting = asyncio.create_task(missed.wait())
    await asyncio.sleep(0)
    missed.give_up()
    await waiting
    late = MissedEndings(0)
    late.add(AttemptKey(ID, ATTEMPT))
    await late.wait()


async def test_an_ending_that_a_replay_was_too_early_for_is_still_missed() -> None:
    """The attempt ends, and nobody receives its last message, while the replay of its output is on the way."""
    async with publishing() as (publisher, pool):
        outlet = publisher.open(ID, ATTEMPT, "m")
        outlet.put(TokenDelta(text="a"))
        await until(lambda: len(pool.flushes) == 1)
        pool.open.clear()
        publisher.replay(ID, ATTEMPT, 0)
        await until(lambda: pool.in_flight == 1)
        outlet.end(b"{}", missed=True)
        pool.open.set()
        await until(lambda: len(pool.flushes) == 2)
        await turns()
        waiting = asyncio.create_task(publisher.missed_endings.wait())
        await turns()
        assert not waiting.done()
        publisher.replay(ID, ATTEMPT, 0)
        await waiting
