"""The retry budget: how many retries the scripts allow, and for how long they delay the others."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from tests.integration import life
from tests.integration.life import LANE, PREFIX, WORKER, raw

from tokenlane.routing.store.pool import Pool

FREE = 10 + LANE.offer.limit_of("chat")
"""How many retries the budget allows without a delay."""


async def retry(pool: Pool, longest_delay_ms: int = 0) -> str:
    """Fail an attempt of a new request, and return what becomes of its request."""
    asked = await life.running(pool)
    state = await pool.requests.requeue(asked.id, asked.attempt, WORKER, longest_delay_ms=longest_delay_ms)
    if state == "spent":
        assert await life.state_of(pool, asked.id) == "running"
        assert await life.finish(pool, asked, "failed")
    return state


async def complete(pool: Pool) -> None:
    """Complete a new request."""
    assert await life.finish(pool, await life.running(pool))


async def debt_ms(pool: Pool) -> int:
    """How long the retries so far are not paid for."""
    return max(0, int(await raw(pool).pttl(f"{PREFIX}retries")))


async def owe(pool: Pool, retries: float) -> None:
    """Let the pool have this many retries behind it."""
    seconds, micros = await raw(pool).time()
    paid_at = int(seconds) * 1000 + int(micros) // 1000 + int(retries * 1000)
    await raw(pool).hset(f"{PREFIX}retries", "paid_at", paid_at)
    await raw(pool).pexpireat(f"{PREFIX}retries", paid_at)


async def test_a_spent_budget_delays_retries_and_then_refuses_them(pool: Pool) -> None:
    """The first retries wait at once, the next ones a second longer each, up to the time that the caller allows."""
    for _ in range(FREE):
        assert await retry(pool) == "waiting"
    await owe(pool, FREE + 30)
    assert await retry(pool, 3_000) == "spent"
    for _ in range(3):
        assert await retry(pool, 60_000) == "delayed"
    due = sorted(score for _, score in await raw(pool).zrange(f"{PREFIX}delayed", 0, -1, withscores=True))
    assert all(abs(later - earlier - 1_000) <= 1 for earlier, later in pairwise(due))
    await life.audit(raw(pool))


async def test_completed_requests_pay_for_retries(pool: Pool) -> None:
    """Ten completed requests allow one more retry."""
    await owe(pool, FREE + 60)
    before = await debt_ms(pool)
    for _ in range(10):
        await complete(pool)
    assert before - await debt_ms(pool) >= 1_000


async def test_a_full_budget_leaves_no_key(pool: Pool) -> None:
    """Requests that complete save no retries for later, and a debt that is paid leaves nothing behind."""
    await complete(pool)
    assert not await raw(pool).exists(f"{PREFIX}retries")
    await owe(pool, 0.05)
    await complete(pool)
    assert not await raw(pool).exists(f"{PREFIX}retries")


@pytest.mark.parametrize("paid_at", ["", "nan", "x"])
async def test_a_value_that_another_client_wrote_breaks_nothing(pool: Pool, paid_at: str) -> None:
    """A value that is no time counts as a full budget."""
    await raw(pool).hset(f"{PREFIX}retries", "paid_at", paid_at)
    assert await retry(pool) == "waiting"
    await complete(pool)
    assert await debt_ms(pool) <= 1_000


async def test_only_retries_after_errors_are_taken_from_the_budget(pool: Pool) -> None:
    """Requests of draining workers and stopped lanes are requeued even if nothing is left."""
    await owe(pool, 10_000)
    asked = await life.running(pool)
    assert await pool.requests.requeue(asked.id, asked.attempt, WORKER) == "waiting"


async def test_a_repeated_call_takes_one_retry(pool: Pool) -> None:
    """The second of two equal calls answers as the first did, and takes nothing."""
    asked = await life.running(pool)
    for _ in range(2):
        state = await pool.requests.requeue(asked.id, asked.attempt, WORKER, 60_000, longest_delay_ms=0)
        assert state == "delayed"
    assert await debt_ms(pool) <= 1_000


@pytest.mark.many_commands
@pytest.mark.parametrize("seed", range(4))
async def test_in_any_order_retries_are_a_tenth_of_the_completed_requests_and_the_floor(pool: Pool, seed: int) -> None:
    """The allowed retries never exceed the free ones, a tenth of the completed requests, and one per second."""
    dice = random.Random(seed)
    share, allowed, completed = dice.uniform(0.05, 0.6), 0, 0
    began, _ = await raw(pool).time()
    for _ in range(300):
        if dice.random() < share:
            allowed += await retry(pool) == "waiting"
        else:
            await complete(pool)
            completed += 1
    ended, _ = await raw(pool).time()
    assert allowed <= FREE + completed / 10 + (int(ended) - int(began) + 1)
