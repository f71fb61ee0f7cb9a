"""`tokenlane failed` as operators run it; tests/integration/producer/commands has `redrive`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.integration import life
from tests.integration.farm import Ended
from tests.integration.life import AGENT, LANE, PREFIX, ROLE, WORKER, raw
from tests.verbs import run_in_thread

from tokenlane.config import exit_codes as exits
from tokenlane.routing.contract.errors import ProviderDown
from tokenlane.routing.store.pool import Pool

UNKNOWN = "0" * 32


async def failed(pool: Pool, *arguments: str) -> Ended:
    """Run the command."""
    return await run_in_thread("failed", *arguments, "--redis", pool.server.url)


async def document(pool: Pool, *arguments: str) -> Any:
    """The command's JSON."""
    ended = await failed(pool, *arguments, "--json")
    assert (ended.code, ended.error) == (exits.OK, "")
    return json.loads(ended.out)


async def fail(pool: Pool, role: str = ROLE) -> str:
    """A request that failed on its second attempt."""
    asked = await life.running(pool, await life.submit(pool, life.envelope(role=role)))
    await pool.requests.requeue(asked.id, asked.attempt, WORKER, cause="provider_down")
    asked = await life.running(pool, asked.id)
    message = b'{"type":"failed"}'
    assert await pool.requests.finish(asked.id, asked.attempt, WORKER, "failed", 0, ProviderDown.code, message)
    return asked.id


async def ids(pool: Pool, *arguments: str) -> list[str]:
    """The ids in the list."""
    return [each["id"] for each in (await document(pool, "ls", *arguments))["requests"]]


async def test_a_list(pool: Pool) -> None:
    """Failed requests stand in a table, the oldest first, with where and why they failed."""
    first, second = await fail(pool), await fail(pool, "coder")
    await life.bring(pool, "running")
    await raw(pool).hincrby(f"{PREFIX}request:{first}", "ended", -700_000)
    ended = await failed(pool, "ls")
    assert (ended.code, ended.error) == (exits.OK, "")
    _, line, _ = ended.out.splitlines()
    assert line.split() == [first, ROLE, "12", "min", "ago", "provider_down", "2", LANE.lane, "m1", AGENT, "no"]
    listed = (await document(pool, "ls"))["requests"]
    assert [(each["id"], each["state"], each["code"]) for each in listed] == [
        (first, "failed", "provider_down"),
        (second, "failed", "provider_down"),
    ]
    assert [each["payload_kept"] for each in listed] == [False, False]
    assert await ids(pool, "--role", "coder") == [second]
    assert await ids(pool, "--older-than", "10m") == [first]
    assert await ids(pool, "--role", "nobody") == []


async def test_nothing_failed(pool: Pool) -> None:
    """A sentence, an empty list, and nothing to forget."""
    assert "main" in (await failed(pool, "ls")).out
    assert await ids(pool) == []
    assert (await document(pool, "drop", "--all"))["dropped"] == 0


async def test_one_request(pool: Pool) -> None:
    """Its attempts, why each ended, what to do, and why it cannot be sent again."""
    request_id = await fail(pool)
    ended = await failed(pool, "show", request_id)
    assert (ended.code, ended.error) == (exits.OK, "")
    lines = {line.split()[0]: line for line in ended.out.splitlines() if line}
    assert "failed with provider_down" in lines["state"]
    assert "endpoint" in lines["advice"]
    assert "keep_payload" in lines["redrive"]
    assert [line.split()[-1] for line in ended.out.splitlines()[-2:]] == ["provider_down", "provider_down"]
    shown = await document(pool, "show", request_id)
    assert (shown["id"], shown["code"], shown["payload_kept"]) == (request_id, "provider_down", False)
    assert shown["advice"]
    assert [each["ended_by"] for each in shown["attempts"]] == ["provider_down", "provider_down"]


async def test_a_request_that_workers_died_of(pool: Pool) -> None:
    """The advice names the workers' logs, since the request may kill the next worker, too."""
    request_id = await fail(pool)
    await raw(pool).hset(f"{PREFIX}request:{request_id}", "crashes", 2)
    assert "workers' logs" in (await document(pool, "show", request_id))["advice"]


async def test_dropping(pool: Pool) -> None:
    """One, those of a role that are old enough, or all; several only after a confirmation."""
    one, old, new, other = [await fail(pool, role) for role in (ROLE, ROLE, ROLE, "coder")]
    await raw(pool).hincrby(f"{PREFIX}request:{old}", "ended", -700_000)
    assert (await document(pool, "drop", one))["dropped"] == 1
    assert (await failed(pool, "drop", "--role", ROLE)).code == exits.USAGE
    assert (await document(pool, "drop", "--role", ROLE, "--older-than", "10m", "--yes"))["dropped"] == 1
    assert set(await ids(pool)) == {new, other}
    ended = await failed(pool, "drop", "--all", "--yes")
    assert (ended.code, ended.error) == (exits.OK, "")
    assert await ids(pool) == []
    await life.audit(raw(pool))


@pytest.mark.parametrize("verb", ["show", "drop"])
async def test_a_request_that_has_not_failed(pool: Pool, verb: str) -> None:
    """It is an error, which names the request; so is one that the pool does not know."""
    waiting = await life.submit(pool)
    for request_id in (UNKNOWN, waiting):
        ended = await failed(pool, verb, request_id, "--json")
        assert ended.code == exits.FAILED
        error = json.loads(ended.out)["error"]
        assert error["request_id"] == request_id
        assert request_id == waiting or "`tokenlane failed ls`" in error["message"]
    assert await life.state_of(pool, waiting) == "waiting"


@pytest.mark.parametrize(
    "arguments",
    [
        ("drop",),
        ("drop", UNKNOWN, "--role", ROLE),
        ("drop", UNKNOWN, "--all"),
        ("drop", UNKNOWN, "--older-than", "1m"),
        ("drop", "--role", ROLE, "--all"),
        ("ls", "--older-than", "10"),
        ("show",),
    ],
)
async def test_wrong_use(pool: Pool, arguments: tuple[str, ...]) -> None:
    """One request, or some of them, and time spans with units."""
    assert (await failed(pool, *arguments)).code == exits.USAGE
