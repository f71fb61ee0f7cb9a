"""The table of states in docs/architecture.md is what the scripts do: each step is taken from each state.

`test_state_machine.py` takes steps in random order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import get_args

import pytest
from tests.integration import life
from tests.integration.life import CLIENT, ENDED, LANE, LIVE, PREFIX, REFUSAL, ROLE, WORKER, Asked, raw
from tests.store.states import CHANGES, TABLE

from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.request_life import Ending

pytestmark = pytest.mark.many_commands

Act = Callable[[Pool, Asked], Awaitable[object]]


@dataclass(frozen=True)
class Step:
    """A call of a script under a condition, both as the table names them, and the state to which it leads.

    `arrange`: brings the condition about. `act`: calls the script.
    """

    script: str
    when: str
    after: str
    act: Act
    arrange: Act | None = None

    @property
    def before(self) -> set[str]:
        """The states from which it leads there."""
        return {before for _, before, after in TABLE[self.script, self.when] if after == self.after}


async def _submit(pool: Pool, asked: Asked) -> None:
    await life.submit(pool, life.envelope(asked.id))


async def _submit_again(pool: Pool, asked: Asked) -> None:
    await life.submit(pool, life.envelope(asked.id), floor=asked.attempt)


async def _delete_entry(pool: Pool, asked: Asked) -> None:
    entry = await raw(pool).hget(f"{PREFIX}request:{asked.id}", "entry")
    await raw(pool).xdel(f"{PREFIX}role:{ROLE}", entry)


async def _lapse(pool: Pool, asked: Asked) -> None:
    await life.pass_lease(pool, asked.id)
    await life.watched(pool)


async def _lapse_late(pool: Pool, asked: Asked) -> None:
    await _lapse(pool, asked)
    await life.pass_deadline(pool, asked.id)


async def _lapse_flagged(pool: Pool, asked: Asked) -> None:
    await _lapse(pool, asked)
    await pool.requests.cancel(asked.id)


async def _start(pool: Pool, asked: Asked) -> None:
    await pool.requests.start(asked.id, asked.attempt, WORKER)


async def _requeue(pool: Pool, asked: Asked) -> None:
    await pool.requests.requeue(asked.id, asked.attempt, WORKER)


async def _requeue_later(pool: Pool, asked: Asked) -> None:
    await pool.requests.requeue(asked.id, asked.attempt, WORKER, 60_000)


async def _requeue_lapsed(pool: Pool, asked: Asked) -> None:
    await pool.requests.requeue(asked.id, asked.attempt, "")


async def _lose_payload(pool: Pool, asked: Asked) -> None:
    await raw(pool).flushall()
    await life.beat(pool, WORKER, LANE, life.hold(asked))


async def _lose_payload_late(pool: Pool, asked: Asked) -> None:
    await _lose_payload(pool, asked)
    await life.pass_deadline(pool, asked.id)


async def _lose_payload_flagged(pool: Pool, asked: Asked) -> None:
    await _lose_payload(pool, asked)
    await pool.requests.cancel(asked.id)


async def _forget(pool: Pool, asked: Asked) -> None:
    await pool.requests.forget(asked.id, asked.attempt, WORKER)


def _finish(ending: Ending) -> Act:
    return lambda pool, asked: life.finish(pool, asked, ending)


async def _give_up(pool: Pool, asked: Asked) -> None:
    await pool.requests.fail(asked.id, asked.attempt, REFUSAL, lapsed=True)


async def _refuse(pool: Pool, asked: Asked) -> None:
    await pool.requests.fail(asked.id, asked.attempt, REFUSAL)


async def _sweep(pool: Pool, _: Asked) -> None:
    await pool.beats.sweep(life.ROUTER)


async def _sweep_clients(pool: Pool, _: Asked) -> None:
    await life.watched(pool)
    await life.vanish(pool)
    await pool.beats.sweep(life.ROUTER)


async def _check(pool: Pool, asked: Asked) -> None:
    await pool.beats.check(CLIENT, [asked.id])


_BROKE = "the attempt broke, and another follows"
_PAUSE = "the attempt broke, and another follows after a pause"
_CANCEL = "an agent cancels, or its beats are missing"
_LATE = "the deadline passed"
_FLAGGED = "the attempt of a flagged or late request broke"

STEPS = [
    Step("submit", "an agent asks", "waiting", _submit),
    Step("submit", "its agent lacks the end of the answer", "waiting", _submit_again),
    Step("dispatch", "a router has a lane with room", "dispatched", lambda pool, it: life.dispatch(pool, it.id)),
    Step("start", "a worker begins", "running", _start),
    Step("start", "the entry in the stream was deleted", "failed", _start, _delete_entry),
    Step("renew", "the server lost the request that its worker runs", "running",
         lambda pool, it: life.beat(pool, WORKER, LANE, life.hold(it))),
    Step("requeue", _BROKE, "waiting", _requeue),
    Step("requeue", _BROKE, "waiting", _requeue_lapsed, _lapse),
    Step("requeue", _PAUSE, "delayed", _requeue_later),
    Step("sweep", "the pause is over", "waiting", _sweep, lambda pool, it: life.pass_delay(pool, it.id)),
    *(Step("finish", "the worker ends the request", ending, _finish(ending)) for ending in get_args(Ending)),
    Step("finish", "the lease lapsed, and no attempt follows", "failed", _give_up, _lapse),
    Step("finish", "no lane can serve the request", "failed", _refuse),
    Step("cancel", _CANCEL, "cancelled", lambda pool, it: pool.requests.cancel(it.id)),
    Step("sweep", _CANCEL, "cancelled", _sweep_clients),
    Step("purge", "an operator cancels", "cancelled", lambda pool, it: pool.requests.purge([it.id])),
    Step("sweep", _LATE, "expired", _sweep, lambda pool, it: life.pass_deadline(pool, it.id)),
    Step("start", _LATE, "expired", _start, _lapse_late),
    *(Step(script, when, "expired", act, _lapse_late)
      for when in (_LATE, _FLAGGED)
      for script, act in (("requeue", _requeue_lapsed), ("finish", _give_up), ("check", _check), ("sweep", _sweep))
      if (script, when) != ("sweep", _LATE)),
    *(Step(script, _FLAGGED, "cancelled", act, _lapse_flagged)
      for script, act in (("requeue", _requeue_lapsed), ("finish", _give_up), ("check", _check), ("sweep", _sweep))),
    Step("forget", "the attempt broke, and only the agent still has the request's payload", "nothing",
         _forget, _lose_payload),
    Step("forget", _FLAGGED, "expired", _forget, _lose_payload_late),
    Step("forget", _FLAGGED, "cancelled", _forget, _lose_payload_flagged),
]  # fmt: skip


def test_every_change_in_the_table_has_a_step() -> None:
    """The steps lead through the whole table, and to all states."""
    assert {(step.script, step.when, step.after) for step in STEPS} == {
        (*row, after) for row, changes in TABLE.items() for _, _, after in changes
    }
    assert {state for _, *states in CHANGES for state in states} == {"nothing", *LIVE, *ENDED}


@pytest.mark.parametrize("state", [*LIVE, *ENDED])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.script}: {step.when}: {step.after}")
async def test_a_step_leads_where_the_table_says(step: Step, state: str, pool: Pool) -> None:
    """From the states that its row names, a step leads to the row's state; from all others nowhere."""
    asked = await life.bring(pool, state)
    leads = state in step.before
    if leads and step.arrange is not None:
        await step.arrange(pool, asked)
    await step.act(pool, asked)
    assert (await life.audit(raw(pool))).get(asked.id, "nothing") == (step.after if leads else state)


@pytest.mark.parametrize("step", [step for step in STEPS if step.before == {"nothing"}], ids=lambda step: step.script)
async def test_a_step_makes_a_request_known(step: Step, pool: Pool) -> None:
    """Two steps begin with a request that the server does not know."""
    asked = Asked(new_id(), 1)
    await step.act(pool, asked)
    assert await life.audit(raw(pool)) == {asked.id: step.after}
