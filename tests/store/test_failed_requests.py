"""Requests that failed: which are listed, whose payloads are kept and for how long, and how they are dropped."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.integration import life
from tests.integration.life import LANE, PAYLOAD, PREFIX, ROLE, WORKER, Asked, audit, raw

from tokenlane.config.host.pool_key_files import KeyRing, PoolKey
from tokenlane.routing.contract.sealing.payloads import unseal
from tokenlane.routing.decide.policy import Policy, PolicyRefused
from tokenlane.routing.store.pool import Pool, connect

KEY = PoolKey.new()
KEEPS = Policy(keep_payload=True)
HOUR_S, DAY_S = 3600, 86_400


@pytest.fixture
async def sealed(redis_url: str) -> AsyncIterator[Pool]:
    """A pool with a key that keeps the payloads of failed requests."""
    async with connect(redis_url, keys=KeyRing((KEY,))) as pool:
        await pool.policies.write(KEEPS)
        yield pool


async def kept(pool: Pool) -> list[str]:
    """The ids of the requests whose payload is kept."""
    return [record.id for record in await pool.records.failed() if record.payload_kept]


async def ttl(pool: Pool, name: str) -> int:
    """For how many seconds a key stays."""
    return int(await raw(pool).ttl(f"{PREFIX}{name}"))


async def test_failed_requests_are_listed(pool: Pool) -> None:
    """The oldest first, and no others; without `keep_payload` the pool has no payload of them."""
    first, second = await life.bring(pool, "failed"), await life.submit(pool)
    await pool.requests.fail(second, 0, life.REFUSAL)
    for state in ("waiting", "running", "completed", "cancelled", "expired"):
        await life.bring(pool, state)
    listed = await pool.records.failed()
    assert {record.id for record in listed} == {first.id, second}
    assert {record.state for record in listed} == {"failed"}
    assert [record.ended_ms for record in listed] == sorted((record.ended_ms or 0 for record in listed), reverse=True)
    assert await kept(pool) == []
    assert await pool.records.kept_payload(first.id) is None
    assert 0 < await ttl(pool, f"request:{first.id}") <= HOUR_S
    await audit(raw(pool))


async def test_nothing_has_failed(pool: Pool) -> None:
    """Looking and dropping make no key."""
    assert await pool.records.failed() == ()
    assert await pool.records.drop_failed(["0" * 32]) == 0
    assert await pool.records.drop_failed([]) == 0
    assert await life.dump(raw(pool)) == {}


async def test_a_payload_is_kept_sealed(sealed: Pool) -> None:
    """For a day, with the request's record; the stream entry is deleted as ever."""
    failed = await life.bring(sealed, "failed")
    found = await sealed.records.kept_payload(failed.id)
    assert found is not None
    envelope, payload = found
    assert (envelope.id, envelope.role, envelope.key_id) == (failed.id, ROLE, KEY.id)
    assert payload != PAYLOAD
    assert unseal(payload, failed.id, KEY) == PAYLOAD
    assert HOUR_S < await ttl(sealed, f"request:{failed.id}") <= DAY_S
    assert HOUR_S < await ttl(sealed, f"kept:{failed.id}") <= DAY_S
    assert not await raw(sealed).exists(f"{PREFIX}role:{ROLE}")
    await audit(raw(sealed))


@pytest.mark.parametrize("state", ["completed", "cancelled", "expired"])
async def test_only_payloads_of_failed_requests_are_kept(sealed: Pool, state: str) -> None:
    """However else a request ends, its payload is gone."""
    ended = await life.bring(sealed, state)
    assert await sealed.records.kept_payload(ended.id) is None
    assert await kept(sealed) == []
    await audit(raw(sealed))


async def test_requests_that_routers_fail_are_kept(sealed: Pool) -> None:
    """One that no lane can serve, and one whose workers died."""
    refused = await life.submit(sealed)
    await sealed.requests.fail(refused, 0, life.REFUSAL)
    await sealed.policies.write(KEEPS.model_copy(update={"max_crashes": 1}))
    died = await life.running(sealed)
    await life.pass_lease(sealed, died.id)
    await life.sweep(sealed)
    assert set(await kept(sealed)) == {refused, died.id}
    await audit(raw(sealed))


async def test_a_pool_without_a_key_keeps_nothing(pool: Pool) -> None:
    """It refuses the policy; if another version wrote it nevertheless, a payload that is not sealed is not kept."""
    with pytest.raises(PolicyRefused):
        await pool.policies.write(KEEPS)
    assert (await pool.policies.read()).revision == 0
    await raw(pool).hset(f"{PREFIX}policy", "keep_payload", "1")
    await life.bring(pool, "failed")
    assert await kept(pool) == []
    await audit(raw(pool))


async def test_a_request_that_the_server_knows_from_its_worker_has_no_payload(sealed: Pool) -> None:
    """It fails as any other does."""
    request_id = "a" * 32
    await life.beat(sealed, WORKER, LANE, life.hold(Asked(request_id, 7)))
    assert await life.finish(sealed, Asked(request_id, 7), "failed")
    assert [record.id for record in await sealed.records.failed()] == [request_id]
    assert await kept(sealed) == []
    await audit(raw(sealed))


async def test_dropping(sealed: Pool) -> None:
    """A dropped request is no longer listed and its payload is gone; its agent can still ask how it ended."""
    first, second = await life.bring(sealed, "failed"), await life.bring(sealed, "failed")
    assert await sealed.records.drop_failed([first.id]) == 1
    assert [record.id for record in await sealed.records.failed()] == await kept(sealed) == [second.id]
    assert await life.state_of(sealed, first.id) == "failed"
    assert 0 < await ttl(sealed, f"request:{first.id}") <= HOUR_S
    waiting = await life.submit(sealed)
    assert await sealed.records.drop_failed([waiting]) == 0
    assert await life.state_of(sealed, waiting) == "waiting"
    await audit(raw(sealed))


async def test_a_policy_that_no_longer_keeps_payloads(sealed: Pool) -> None:
    """It forgets those that were kept; the failed requests stay listed."""
    failed = await life.bring(sealed, "failed")
    await sealed.policies.write(KEEPS.model_copy(update={"max_starts": 3}))
    assert await kept(sealed) == [failed.id]
    await sealed.policies.write(Policy())
    assert [record.id for record in await sealed.records.failed()] == [failed.id]
    assert await kept(sealed) == []
    assert 0 < await ttl(sealed, f"request:{failed.id}") <= HOUR_S
    await audit(raw(sealed))


async def fail_with_payload(pool: Pool, payload: bytes = PAYLOAD) -> str:
    """A request with this payload that no lane can serve."""
    asked = life.envelope()
    await pool.requests.submit(asked, payload)
    assert await pool.requests.fail(asked.id, 0, life.REFUSAL)
    return asked.id


@pytest.mark.many_commands
async def test_at_most_a_thousand_payloads_are_kept(sealed: Pool) -> None:
    """The oldest are forgotten first, and their records do not stay for a day either."""
    ids = [await fail_with_payload(sealed) for _ in range(1003)]
    assert set(await kept(sealed)) == set(ids[3:])
    assert 0 < await ttl(sealed, f"request:{ids[0]}") <= HOUR_S < await ttl(sealed, f"request:{ids[3]}")
    await audit(raw(sealed))


@pytest.mark.many_commands
async def test_the_payloads_have_a_limit_of_bytes(sealed: Pool) -> None:
    """Of large ones fewer are kept, and a payload that is larger than agents may send is not kept at all."""
    small, large = await fail_with_payload(sealed), bytes(7 * 1024 * 1024)
    ids = [await fail_with_payload(sealed, large) for _ in range(10)]
    held = await kept(sealed)
    assert small not in held
    assert set(ids[-8:]) == set(held)
    too_large = await fail_with_payload(sealed, bytes(9 * 1024 * 1024))
    assert too_large not in await kept(sealed)


@pytest.mark.many_commands  # and fakeredis has no limit of memory
async def test_a_full_server_keeps_nothing(sealed: Pool) -> None:
    """The request fails as any other does, and its payload is not kept."""
    asked = await life.running(sealed)
    await raw(sealed).config_set("maxmemory", 1)
    try:
        assert await life.finish(sealed, asked, "failed")
    finally:
        await raw(sealed).config_set("maxmemory", 0)
    assert [record.id for record in await sealed.records.failed()] == [asked.id]
    assert await kept(sealed) == []
    later = await life.bring(sealed, "failed")
    assert await kept(sealed) == [later.id]
    await audit(raw(sealed))
