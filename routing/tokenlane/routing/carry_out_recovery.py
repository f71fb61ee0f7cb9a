"""Requeues, fails or forgets the requests whose lease has lapsed, as `decide/recovery.py` decides.

A router does this, or an agent if no router is alive. If two of them recover the same request, the second changes
nothing. The store reports a request again until it is recovered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from .contract.errors import LlmError
from .decide.policy import Policy, PolicyUnreadable
from .decide.recovery import End, Forget, TryAgain, decide
from .store.pool import Pool
from .store.replies.lapsed import LapsedAttempt
from .support.tasks import gather_to_end


async def recover(pool: Pool, lapsed: Sequence[LapsedAttempt]) -> None:
    """Requeue, fail or forget the request of each lapsed attempt.

    Raises:
        PoolUnavailable: the Redis server does not answer. The store will report the remaining requests again.
    """
    if lapsed:
        policy = await known_policy(pool)
        await gather_to_end(*(_recover_safely(pool, attempt, policy) for attempt in lapsed))


async def known_policy(pool: Pool) -> Policy:
    """Read the pool's policy. If this version cannot read it, return the default policy.

    Raises:
        PoolUnavailable: the Redis server does not answer.
    """
    try:
        return await pool.policies.read()
    except PolicyUnreadable:
        return Policy()


async def _recover_safely(pool: Pool, lapsed: LapsedAttempt, policy: Policy) -> None:
    """Recover one request. Record an unexpected error, so that it does not stop other recoveries or the router."""
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
        case Forget():
            await pool.requests.forget(lapsed.id, lapsed.attempt, "")
        case _:
            assert_never(decision)
