"""`tokenlane failed redrive` as operators run it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.integration import life
from tests.integration.farm import Ended
from tests.integration.lanes import lane_of
from tests.integration.life import PREFIX, raw
from tests.integration.shelves import OllamaShelf
from tests.integration.stand_in import LANE, MODEL, Run, StandIn
from tests.loopback import served
from tests.verbs import run_in_thread

from tokenlane.config import exit_codes as exits
from tokenlane.config.host.embedded_server import EmbeddedServer
from tokenlane.config.host.pool_key_files import KeyRing, PoolKey
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import BadRequest, Client, LlmError, ModelNotFound
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool, connect

KEY, NEXT = PoolKey.new(), PoolKey.new()
QUESTION = "marmalade"
ROLE, AGENT = "planner", "agent1"


@pytest.fixture
async def pool(redis_url: str) -> AsyncIterator[Pool]:
    """A pool with a key that keeps the payloads of failed requests."""
    async with connect(redis_url, keys=KeyRing((KEY,)), unseals=True) as pool:
        await pool.policies.write(Policy(keep_payload=True))
        yield pool


async def redrive(pool: Pool, *arguments: str, key: PoolKey = KEY) -> Ended:
    """Run the command."""
    given = ("failed", "redrive", *arguments, "--redis", pool.server.url)
    return await run_in_thread(*given, TOKENLANE_POOL_KEY=key.reveal())


@asynccontextmanager
async def redriving(pool: Pool, *arguments: str) -> AsyncIterator[asyncio.Task[Ended]]:
    """The command while it runs."""
    async with asyncio.TaskGroup() as tasks:
        yield tasks.create_task(redrive(pool, *arguments))


async def fail(worker: StandIn, pool: Pool, role: str = ROLE) -> str:
    """A chat that its worker has failed."""
    async with Client(pool.server.url, agent=AGENT, key=KEY.reveal()) as client:
        async with client.chat(QUESTION, role=role, priority="high", idempotency_key=new_id()) as stream:
            await (await worker.next_run()).fail(BadRequest(f"it does not answer {role}"))
            with pytest.raises(LlmError):
                await stream.answer()
            return stream.request_id


async def document(task: asyncio.Task[Ended], code: int = exits.OK) -> list[dict[str, Any]]:
    """The outcomes in the command's JSON."""
    ended = await task
    assert ended.code == code, ended
    requests: list[dict[str, Any]] = json.loads(ended.out)["requests"]
    return requests


def assert_same_request(run: Run, request_id: str) -> None:
    """It asks what the failed request asked, under a new id."""
    assert run.id != request_id
    assert [message.content for message in run.request.messages] == [QUESTION]
    assert (run.envelope.role, run.envelope.agent, run.envelope.priority) == (ROLE, AGENT, "high")


async def test_a_failed_request_is_served(pool: Pool, worker: StandIn) -> None:
    """It runs under a new id, its outcome is printed without its text, and its payload is gone."""
    failed = await fail(worker, pool)
    async with redriving(pool, failed) as task:
        run = await worker.next_run()
        assert_same_request(run, failed)
        await run.complete("lime")
    ended = await task
    assert ended.code == exits.OK, ended
    assert ended.out.startswith(f"{failed} completed on lane {LANE} with model {MODEL} after ")
    assert run.id in ended.error
    assert not {"lime", QUESTION} & set(f"{ended.out} {ended.error}".split())
    assert await pool.records.failed() == ()
    assert not await raw(pool).keys(f"{PREFIX}kept:*")
    await life.audit(raw(pool))


async def test_a_request_that_fails_again(pool: Pool, worker: StandIn) -> None:
    """It stays listed under its first id, with its payload, and can be redriven again."""
    failed = await fail(worker, pool)
    async with redriving(pool, failed, "--json") as task:
        run = await worker.next_run()
        await run.fail(BadRequest("still not", detail=QUESTION))
    (outcome,) = await document(task, exits.FAILED)
    assert (outcome["request_id"], outcome["redriven_as"], outcome["state"]) == (failed, run.id, "failed")
    assert (outcome["code"], outcome["usage"]) == ("bad_request", None)
    assert QUESTION not in (await task).out
    (record,) = await pool.records.failed()
    assert (record.id, record.payload_kept) == (failed, True)
    async with redriving(pool, failed, "--json") as task:
        await (await worker.next_run()).complete("lime")
    (outcome,) = await document(task)
    assert (outcome["state"], outcome["lane"], outcome["model"]) == ("completed", LANE, MODEL)
    await life.audit(raw(pool))


async def test_redriving_a_role(pool: Pool, worker: StandIn) -> None:
    """All its failed requests, after a confirmation; those of other roles stay, and those whose workers died."""
    first, second, poison, other = [await fail(worker, pool, role) for role in (ROLE, ROLE, ROLE, "coder")]
    await raw(pool).hset(f"{PREFIX}request:{poison}", "crashes", "3")
    assert (await redrive(pool, "--role", ROLE)).code == exits.USAGE
    async with redriving(pool, "--role", ROLE, "--yes", "--json") as task:
        for _ in range(2):
            await (await worker.next_run()).complete("lime")
    outcomes = await document(task)
    assert [(each["request_id"], each["state"]) for each in outcomes] == [(first, "completed"), (second, "completed")]
    assert {record.id for record in await pool.records.failed()} == {poison, other}
    assert await document(asyncio.create_task(redrive(pool, "--role", "nobody", "--json"))) == []
    await life.audit(raw(pool))


async def test_a_model_command_is_done_again() -> None:
    """Its effect is its use: the model that could not be pulled is there."""
    shelf = OllamaShelf(**{"old:latest": "I am old"})
    async with (
        EmbeddedServer() as server,
        served(shelf.app) as url,
        connect(server.url, keys=KeyRing()) as pool,
        lane_of(server.url, LaneSettings("gpu0", "ollama", url)),
        Client(server.url) as client,
    ):
        await pool.policies.write(Policy(keep_payload=True))
        with pytest.raises(ModelNotFound):
            _ = [step async for step in client.pull("new:1b")]
        shelf.registry["new:1b"] = "I am new"
        (failed,) = await pool.records.failed()
        ended = await run_in_thread("failed", "redrive", failed.id, "--redis", server.url)
        assert ended.code == exits.OK, ended
        assert (await client.complete("hi", role=ROLE, model="new:1b")).text == "I am new"


async def test_a_key_that_was_rotated(pool: Pool, worker: StandIn) -> None:
    """A host with the old key opens the payload and seals it with the new one; a host without it says which key it
    lacks, and keeps the request."""
    failed = await fail(worker, pool)
    await pool.key_agreement.announce(KeyRing((NEXT, KEY)))
    refused = await redrive(pool, failed, "--json", key=NEXT)
    assert refused.code == exits.FAILED
    (outcome,) = json.loads(refused.out)["requests"]
    assert (outcome["code"], outcome["redriven_as"]) == ("pool_key_mismatch", None)
    assert KEY.id in outcome["message"]
    assert KEY.reveal() not in refused.out
    both = run_in_thread(
        *("failed", "redrive", failed, "--redis", pool.server.url),
        TOKENLANE_POOL_KEY=f"{NEXT.reveal()},{KEY.reveal()}",
    )
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(both)
        run = await worker.next_run()
        assert run.envelope.key_id == NEXT.id
        await run.complete("lime")
    assert (await task).code == exits.OK


async def test_a_request_whose_payload_is_not_kept(pool: Pool, worker: StandIn) -> None:
    """The error says why, and names the request; nothing is sent."""
    failed = await fail(worker, pool)
    await pool.policies.write(Policy())
    ended = await redrive(pool, failed, "--json")
    assert ended.code == exits.FAILED
    error = json.loads(ended.out)["error"]
    assert error["request_id"] == failed
    assert "keep_payload" in error["message"]
    assert (await redrive(pool, "--role", ROLE, "--yes")).code == exits.FAILED
    assert len(worker.runs) == 1


async def test_a_dropped_request(pool: Pool, worker: StandIn) -> None:
    """The error names the verb that deleted the payload."""
    failed = await fail(worker, pool)
    await pool.records.drop_failed([failed])
    ended = await redrive(pool, failed)
    assert ended.code == exits.FAILED
    assert "`tokenlane failed drop`" in ended.error


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("0" * 32, "--role", ROLE),
        ("0" * 32, "--show"),
        ("--role", ROLE, "--show"),
        ("0" * 32, "--older-than", "1m"),
    ],
)
async def test_wrong_use(pool: Pool, arguments: tuple[str, ...]) -> None:
    """One request or a role; only a terminal is shown an answer."""
    assert (await redrive(pool, *arguments)).code == exits.USAGE


async def test_an_unknown_request(pool: Pool) -> None:
    """It is an error."""
    assert (await redrive(pool, "0" * 32)).code == exits.FAILED
