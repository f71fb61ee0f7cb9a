"""Recovers requests whose worker or lane has let the lease lapse, as decide/recovery says.

A router does it, or where none is left, the agent itself. Two at once do no harm, and what one of them leaves undone is
reported to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from .contract.errors import LlmError
from .decide.policy import Policy, PolicyUnreadable
from .decide.recovery import End, TryAgain, decide
from .store.pool import Pool
from .store.replies.lapsed import LapsedAttempt
from .support.tasks import together


async def recover(pool: Pool, lapsed: Sequence[LapsedAttempt]) -> None:
    """Requeue or fail each of these.

    Raises:
        PoolUnavailable: the server does not answer; what was not done is found again.
    """
    if lapsed:
        policy = await known_policy(pool)
        await together(*(_survive(pool, attempt, policy) for attempt in lapsed))


async def known_policy(pool: Pool) -> Policy:
    """The pool's policy; the default where this version cannot read it.

    Raises:
        PoolUnavailable: the server does not answer.
    """
    try:
        return await pool.policies.read()
    except PolicyUnreadable:
        return Policy()


async def _survive(pool: Pool, lapsed: LapsedAttempt, policy: Policy) -> None:
    """Recover one, so that a bug met there keeps no other request, and no router, from going on."""
    try:
        await _recover(pool, lapsed, policy)
    except LlmError:
        raise
    except Exception as error:
        pool.internal_errors.note("recovery of a request", error)


async def _recover(pool: Pool, lapsed: LapsedAttempt, policy: Policy) -> None:
    decision = decide(lapsed.cause, lapsed.history, policy)
    match decision:
        case End(error):
            await pool.requests.fail(lapsed.id, lapsed.attempt, error, lapsed=True)
        case TryAgain(needs, due_ms, _, alone):
            queue = replace(lapsed.queue, needs=needs) if lapsed.queue else None
            await pool.requests.requeue(lapsed.id, lapsed.attempt, "", due_ms, queue=queue, alone=alone)
        case _:
            assert_never(decision)
