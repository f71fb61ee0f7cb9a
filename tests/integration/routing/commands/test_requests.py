"""`tokenlane requests` as operators run it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.integration import life
from tests.integration.farm import Ended
from tests.integration.life import AGENT, LANE, PREFIX, ROLE, WORKER, raw
from tests.verbs import run_in_thread

from tokenlane.config import exit_codes as exits
from tokenlane.routing.store.pool import Pool

UNKNOWN = "0" * 32


async def requests(pool: Pool, *arguments: str) -> Ended:
    """Run the command."""
    return await run_in_thread("requests", *arguments, "--redis", pool.server.url)


async def document(pool: Pool, *arguments: str) -> Any:
    """The command's JSON."""
    ended = await requests(pool, *arguments, "--json")
    assert (ended.code, ended.error) == (exits.OK, "")
    return json.loads(ended.out)


async def test_a_list(pool: Pool) -> None:
    """Live requests stand in a table, the oldest first, with their places and what they wait for."""
    running, waiting = await life.running(pool), await life.submit(pool)
    await life.bring(pool, "completed")
    ended = await requests(pool, "ls")
    assert (ended.code, ended.error) == (exits.OK, "")
    _, first, second = ended.out.splitlines()
    assert first.split()[:4] == [running.id, ROLE, "normal", "running"]
    assert LANE.lane in first.split()
    assert second.split()[:4] == [waiting, ROLE, "normal", "waiting"]
    assert second.split()[-6:] == ["1", "of", "1", "-", "a", "router"]
    listed = (await document(pool, "ls"))["requests"]
    assert [each["id"] for each in listed] == [running.id, waiting]
    assert (listed[1]["position"], listed[1]["in_queue"], listed[1]["estimate_ms"]) == (1, 1, None)
    assert (listed[0]["waits_for"], listed[1]["waits_for"]) == ("", "a router")
    assert (listed[0]["agent"], listed[0]["lane"], listed[0]["worker"]) == (AGENT, LANE.lane, WORKER)


async def test_filters_of_the_list(pool: Pool) -> None:
    """By role, by state and by age."""
    other = await life.submit(pool, life.envelope(role="coder"))
    old, running = await life.submit(pool), await life.running(pool)
    await raw(pool).hincrby(f"{PREFIX}request:{old}", "created", -700_000)

    async def ids(*arguments: str) -> set[str]:
        return {each["id"] for each in (await document(pool, "ls", *arguments))["requests"]}

    assert await ids() == {other, old, running.id}
    assert await ids("--role", "coder") == {other}
    assert await ids("--state", "running") == {running.id}
    assert await ids("--older-than", "10m") == {old}
    assert await ids("--role", "coder", "--older-than", "10m") == set()


async def test_an_empty_list(pool: Pool) -> None:
    """It is a sentence, or an empty list in JSON."""
    assert "main" in (await requests(pool, "ls")).out
    assert (await document(pool, "ls"))["requests"] == []


@pytest.mark.parametrize("state", [*life.LIVE, *life.ENDED])
async def test_one_request(pool: Pool, state: str) -> None:
    """Every state can be shown, as text and as JSON."""
    asked = await life.bring(pool, state)
    ended = await requests(pool, "show", asked.id)
    assert (ended.code, ended.error) == (exits.OK, "")
    lines = {line.split()[0]: line for line in ended.out.splitlines() if line}
    assert state in lines["state"]
    assert ("why" in lines) == (state in ("waiting", "delayed", "dispatched"))
    assert ("place" in lines) == (state == "waiting")
    shown = await document(pool, "show", asked.id)
    assert (shown["id"], shown["state"], shown["role"]) == (asked.id, state, ROLE)
    assert bool(shown["why"]) == ("why" in lines)


async def test_the_attempts_of_a_request(pool: Pool) -> None:
    """A table shows each attempt: its lane, its model and why it ended."""
    asked = await life.running(pool)
    await pool.requests.requeue(asked.id, asked.attempt, WORKER, cause="provider_down")
    await life.running(pool, asked.id)
    ended = await requests(pool, "show", asked.id)
    *_, first, second = ended.out.splitlines()
    assert first.split()[:2] == second.split()[:2] == [LANE.lane, "m1"]
    assert first.endswith("provider_down")
    assert second.endswith("-")
    attempts = (await document(pool, "show", asked.id))["attempts"]
    assert [(each["lane"], each["ended_by"]) for each in attempts] == [(LANE.lane, "provider_down"), (LANE.lane, "")]
    assert attempts[0]["ended_ms"] <= attempts[0]["started_ms"] <= attempts[0]["assigned_ms"]


async def test_an_unknown_request(pool: Pool) -> None:
    """It is an error, which names the request."""
    for verb in ("show", "cancel"):
        ended = await requests(pool, verb, UNKNOWN, "--json")
        assert ended.code == exits.FAILED
        assert json.loads(ended.out)["error"]["request_id"] == UNKNOWN


async def test_cancelling_one_request(pool: Pool) -> None:
    """A request that waits ends at once; a running one is flagged for its worker; one that has ended is an error."""
    waiting, running = await life.submit(pool), await life.running(pool)
    assert (await document(pool, "cancel", waiting))["requests"] == {waiting: "cancelled"}
    assert (await document(pool, "cancel", running.id))["requests"] == {running.id: "flagged"}
    assert await life.state_of(pool, waiting) == "cancelled"
    completed = await life.bring(pool, "completed")
    assert (await requests(pool, "cancel", completed.id)).code == exits.FAILED
    await life.audit(raw(pool))


async def test_cancelling_a_role(pool: Pool) -> None:
    """All live requests of the role, or those that are old enough; nothing without a confirmation."""
    other = await life.submit(pool, life.envelope(role="coder"))
    old, running = await life.submit(pool), await life.running(pool)
    await raw(pool).hincrby(f"{PREFIX}request:{old}", "created", -700_000)
    assert (await requests(pool, "cancel", "--role", ROLE)).code == exits.USAGE
    assert await life.state_of(pool, old) == "waiting"
    assert (await document(pool, "cancel", "--role", ROLE, "--older-than", "10m", "--yes"))["requests"] == {
        old: "cancelled"
    }
    ended = await requests(pool, "cancel", "--role", ROLE, "--yes")
    assert (ended.code, ended.error) == (exits.OK, "")
    assert {each.id: each.stops for each in await pool.records.live()} == {other: "", running.id: "cancelled"}
    assert (await document(pool, "cancel", "--role", "nobody"))["requests"] == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ("cancel",),
        ("cancel", UNKNOWN, "--role", ROLE),
        ("cancel", UNKNOWN, "--older-than", "1m"),
        ("ls", "--state", "ended"),
        ("ls", "--older-than", "10"),
        ("show",),
    ],
)
async def test_wrong_use(pool: Pool, arguments: tuple[str, ...]) -> None:
    """A request or a role, and time spans with units."""
    assert (await requests(pool, *arguments)).code == exits.USAGE


async def test_nothing_of_a_prompt_is_shown(pool: Pool) -> None:
    """Neither envelope nor payload is read."""
    asked = life.envelope()
    await pool.requests.submit(asked, b'{"messages":[{"role":"user","content":"marmalade"}]}')
    for arguments in (("ls",), ("show", asked.id), ("show", asked.id, "--json")):
        assert "marmalade" not in (await requests(pool, *arguments)).out
