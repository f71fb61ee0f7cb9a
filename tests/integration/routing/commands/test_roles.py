"""`tokenlane roles` as operators run it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.integration import life
from tests.integration.farm import Ended
from tests.integration.life import ROLE, raw
from tests.verbs import run_in_thread

from tokenlane.config import exit_codes as exits
from tokenlane.routing.decide.policy import Policy, RolePolicy
from tokenlane.routing.decide.wait_cause import wait_cause
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot


async def roles(pool: Pool, *arguments: str) -> Ended:
    """Run the command."""
    return await run_in_thread("roles", *arguments, "--redis", pool.server.url)


async def document(pool: Pool, *arguments: str) -> Any:
    """The command's JSON."""
    ended = await roles(pool, *arguments, "--json")
    assert (ended.code, ended.error) == (exits.OK, "")
    return json.loads(ended.out)


async def test_pausing_and_resuming(pool: Pool) -> None:
    """A paused role's requests are accepted and wait, with the cause; those of other roles do not."""
    await life.open_lane(pool)
    assert (await document(pool, "pause", ROLE))["changed"] is True
    assert (await document(pool, "pause", ROLE))["changed"] is False
    waiting, other = await life.submit(pool), await life.submit(pool, life.envelope(role="coder"))
    assert [head.id for head in (await pool.survey()).heads] == [other]
    assert await life.dispatch(pool, waiting) is None
    assert await life.dispatch(pool, other) is not None
    snapshot = await take_snapshot(pool)
    assert snapshot.paused == (ROLE,)
    cause = wait_cause(snapshot.facts, snapshot.queues[0].key)
    assert "operator" in cause.explanation
    assert f"tokenlane roles resume {ROLE}" in cause.advice
    await life.audit(raw(pool))
    assert (await document(pool, "resume", ROLE))["changed"] is True
    assert (await document(pool, "resume", ROLE))["changed"] is False
    assert await life.dispatch(pool, waiting) is not None


async def test_pausing_a_role_that_nothing_names(pool: Pool) -> None:
    """It is paused, since agents may use any role, with a warning that names the most similar role."""
    await pool.policies.write(Policy(roles={"coder": RolePolicy()}))
    await life.submit(pool)
    for role, known in (("coder", True), (ROLE, True), ("codr", False)):
        ended = await roles(pool, "pause", role)
        assert ended.code == exits.OK
        assert ("'coder'" in ended.error) == (not known)
        assert (await document(pool, "pause", role))["known"] is known
    assert set((await take_snapshot(pool)).paused) == {"coder", ROLE, "codr"}


async def test_purging(pool: Pool) -> None:
    """All waiting and delayed requests of the role are cancelled, in two batches; nothing without a confirmation."""
    delayed, running = await life.bring(pool, "delayed"), await life.running(pool)
    waiting = [await life.submit(pool) for _ in range(120)]
    other = await life.submit(pool, life.envelope(role="coder"))
    assert (await roles(pool, "purge", ROLE)).code == exits.USAGE
    assert await life.state_of(pool, waiting[0]) == "waiting"
    assert (await document(pool, "purge", ROLE, "--yes"))["cancelled"] == 121
    assert (await document(pool, "purge", ROLE))["cancelled"] == 0
    assert {await life.state_of(pool, each) for each in (delayed.id, *waiting)} == {"cancelled"}
    assert [await life.state_of(pool, each) for each in (running.id, other)] == ["running", "waiting"]
    await life.audit(raw(pool))


@pytest.mark.parametrize("verb", ["pause", "resume", "purge"])
async def test_a_wrong_name(pool: Pool, verb: str) -> None:
    """It is wrong use."""
    assert (await roles(pool, verb, "a b")).code == exits.USAGE
