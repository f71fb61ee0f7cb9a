"""Requeues or fails requests whose lease has lapsed, as decide/recovery.py decides.

A router does this, or the agent if no router is left. If two do it at once, the second changes nothing. The store
reports a request again until it is recovered.
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
from .support.tasks import gather_to_end


async def recover(pool: Pool, lapsed: Sequence[LapsedAttempt]) -> None:
    """Requeue or fail the request of each attempt.

    Raises:
        PoolUnavailable: the server does not answer. The store will report the remaining requests again.
    """
    if lapsed:
        policy = await known_policy(pool)
        await gather_to_end(*(_survive(pool, attempt, policy) for attempt in lapsed))


async def known_policy(pool: Pool) -> Policy:
    """Read the pool's policy; return the default policy if this version cannot read the pool's.

    Raises:
        PoolUnavailable: the server does not answer.
    """
    try:
        return await pool.policies.read()
    except PolicyUnreadable:
        return Policy()


async def _survive(pool: Pool, lapsed: LapsedAttempt, policy: Policy) -> None:
    """Recover one request. An unexpected error is noted and stops neither other recoveries nor the router."""
    try:
        await _recover(pool, lapsed, policy)
    except LlmError:
        raise
    except Exception as error:
        pool.internal_errors.record("recovery of a request", error)


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
