from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.store.access.remembered import FRESH_S, KEPT_S, Remembered


@dataclass
class Pool:
    """A pool with a value. `now`: the time. `away`: whether the server does not answer. `reads`: how often it was
    asked."""

    value: str = "old"
    now: float = 1_000.0
    away: bool = False
    reads: int = 0
    answering: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.answering.set()

    async def read(self) -> str:
        self.reads += 1
        await self.answering.wait()
        if self.away:
            raise PoolUnavailable("away")
        return self.value

    def remembered(self) -> Remembered[str]:
        return Remembered(self.read, lambda: self.now)


async def test_a_value_is_read_again_when_it_is_no_longer_fresh() -> None:
    """Until then nobody asks the pool, unless the caller wants it fresher."""
    pool = Pool()
    remembered = pool.remembered()
    assert await remembered.get() == "old"
    pool.value = "new"
    pool.now += FRESH_S / 2
    assert (await remembered.get(), pool.reads) == ("old", 1)
    assert (await remembered.get(FRESH_S / 4), pool.reads) == ("new", 2)
    pool.value = "newest"
    pool.now += FRESH_S
    assert (await remembered.get(), pool.reads) == ("newest", 3)


async def test_all_who_ask_at_once_share_one_reading() -> None:
    """A hundred callers ask the pool once. If the one who reads is cancelled, the next one reads."""
    pool = Pool()
    pool.answering.clear()
    remembered = pool.remembered()
    first, *others = [asyncio.create_task(remembered.get()) for _ in range(100)]
    await asyncio.sleep(0)
    first.cancel()
    pool.answering.set()
    assert await asyncio.gather(*others) == ["old"] * 99
    assert pool.reads == 2
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_the_value_is_kept_while_the_server_is_away() -> None:
    """It is kept as long as stated; until then the server is asked again, but not by every caller."""
    pool = Pool()
    remembered = pool.remembered()
    await remembered.get()
    pool.away = True
    pool.now += FRESH_S
    assert [await remembered.get() for _ in range(9)] == ["old"] * 9
    assert pool.reads == 2
    pool.now += 1
    assert (await remembered.get(), pool.reads) == ("old", 3)
    pool.now += KEPT_S
    with pytest.raises(PoolUnavailable):
        await remembered.get()
    pool.away, pool.value = False, "new"
    assert await remembered.get() == "new"


async def test_a_server_that_never_answered_leaves_nothing_to_remember() -> None:
    """The error reaches whoever asks, each time."""
    pool = Pool(away=True)
    remembered = pool.remembered()
    for _ in range(2):
        with pytest.raises(PoolUnavailable):
            await remembered.get()
