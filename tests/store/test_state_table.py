"""The table of states in docs/architecture.md is what the scripts do: each step is taken from each state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import pytest
from tests.documents import table_on
from tests.integration import life
from tests.integration.life import CLIENT, ENDED, LIVE, REFUSAL, WORKER, Asked
from tests.repository import ROOT

from tokenlane.routing.store.pool import Pool

Step = Callable[[Pool, Asked], Awaitable[object]]


class Row(NamedTuple):
    """A step as the page has it."""

    step: str
    caller: str
    before: frozenset[str]
    after: str


ROWS = [
    Row(step, caller, frozenset(before.split(", ")), after)
    for step, caller, before, after in table_on(ROOT / "docs" / "architecture.md", "states")
]


async def _submit(pool: Pool, asked: Asked) -> None:
    await life.submit(pool, life.envelope(asked.id))


async def _dispatch(pool: Pool, asked: Asked) -> None:
    await life.dispatch(pool, asked.id)


async def _lease_over(pool: Pool, asked: Asked) -> None:
    await life.pass_lease(pool, asked.id)
    await life.sweep(pool)


async def _delay_over(pool: Pool, asked: Asked) -> None:
    await life.pass_delay(pool, asked.id)
    await life.sweep(pool)


async def _deadline_over(pool: Pool, asked: Asked) -> None:
    await life.pass_deadline(pool, asked.id)
    await life.sweep(pool)


async def _client_gone(pool: Pool, _: Asked) -> None:
    await life.vanish(pool, CLIENT)
    await life.sweep(pool)


STEPS: Mapping[str, Step] = {
    "submit": _submit,
    "dispatch": _dispatch,
    "start": lambda pool, asked: pool.requests.start(asked.id, asked.attempt, WORKER),
    "requeue": lambda pool, asked: pool.requests.requeue(asked.id, asked.attempt, WORKER),
    "requeue with a delay": lambda pool, asked: pool.requests.requeue(asked.id, asked.attempt, WORKER, 60_000),
    "sweep, delay over": _delay_over,
    "sweep, lease over": _lease_over,
    "sweep, deadline over": _deadline_over,
    "sweep, client gone": _client_gone,
    "cancel": lambda pool, asked: pool.requests.cancel(asked.id),
    "finish, completed": lambda pool, asked: life.finish(pool, asked, "completed"),
    "finish, failed": lambda pool, asked: life.finish(pool, asked, "failed"),
    "finish, cancelled": lambda pool, asked: life.finish(pool, asked, "cancelled"),
    "finish, expired": lambda pool, asked: life.finish(pool, asked, "expired"),
    "refuse": lambda pool, asked: pool.requests.fail(asked.id, asked.attempt, REFUSAL),
}


def test_the_table_has_every_step() -> None:
    """Each step of the tests has its row, and each row its step."""
    assert [row.step for row in ROWS] == list(STEPS)
    assert {state for row in ROWS for state in (*row.before, row.after)} == {"nothing", *LIVE, *ENDED}


@pytest.mark.parametrize("state", [*LIVE, *ENDED])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.step)
async def test_a_step_goes_where_the_table_says(row: Row, state: str, pool: Pool) -> None:
    """From the states it names a step leads to the one it names; from all others nowhere."""
    asked = await life.bring(pool, state)
    await STEPS[row.step](pool, asked)
    assert await life.state_of(pool, asked.id) == (row.after if state in row.before else state)
    await life.audit(life.raw(pool))


async def test_a_submission_begins_the_life_of_a_request(pool: Pool) -> None:
    """The one step that needs no state before it."""
    (row,) = [row for row in ROWS if "nothing" in row.before]
    assert row.step == "submit"
    assert await life.state_of(pool, await life.submit(pool)) == row.after
