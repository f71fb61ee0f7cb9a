"""API keys in a pool: what Redis holds of them, and what is found, revoked and refused."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from tests.integration.life import raw

from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.access.api_key import ApiKey, digest_of
from tokenlane.routing.store.access.api_keys import ApiKeyExists
from tokenlane.routing.store.access.known_keys import KnownApiKeys
from tokenlane.routing.store.pool import Pool

NOW_S = 1_800_000_000
HASH = "{main}:api-keys"


def api_key(name: str, **more: object) -> ApiKey:
    return ApiKey.model_validate({"name": name, "agent": "ci", "created_s": NOW_S, **more})


async def test_a_secret_finds_its_key_and_is_stored_nowhere(pool: Pool) -> None:
    """All that was added comes back. Redis holds the digest, and no part of the secret."""
    full = api_key("full", role="coder", priority="low", in_flight=3, expires_s=NOW_S + 60)
    bare = api_key("bare")
    secrets = [await pool.api_keys.add(key) for key in (full, bare)]
    table = await pool.api_keys.read()
    assert [table.find(secret, NOW_S) for secret in secrets] == [full, bare]
    assert table.listed == (bare, full)
    held = str(await raw(pool).hgetall(HASH))
    assert all(secret.startswith("tl-") and len(secret) == 46 and secret[3:19] not in held for secret in secrets)
    assert not [key for key in await raw(pool).keys("*") if key != HASH.encode()]


async def test_no_other_text_finds_a_key(pool: Pool) -> None:
    """Neither its digest nor a part of it, and nothing that is no text of ours."""
    secret = await pool.api_keys.add(api_key("ci"))
    table = await pool.api_keys.read()
    for wrong in ("", secret[:-1], secret + "=", secret.upper(), digest_of(secret), "ci", "\ud800", "tl-" * 9_999):
        assert table.find(wrong, NOW_S) is None


async def test_of_two_who_add_a_name_one_does(pool: Pool) -> None:
    """The other is told; the first secret stays valid."""
    added = await asyncio.gather(*(pool.api_keys.add(api_key("ci")) for _ in range(2)), return_exceptions=True)
    (secret,) = [one for one in added if isinstance(one, str)]
    assert [type(one) for one in added if one != secret] == [ApiKeyExists]
    assert (await pool.api_keys.read()).find(secret, NOW_S) == api_key("ci")


async def test_a_revoked_key_is_no_key(pool: Pool) -> None:
    """A second revocation finds nothing, and the name is free again, for another secret."""
    first = await pool.api_keys.add(api_key("ci"))
    assert (await pool.api_keys.revoke("ci"), await pool.api_keys.revoke("ci")) == (True, False)
    assert not await pool.api_keys.read()
    second = await pool.api_keys.add(api_key("ci"))
    table = await pool.api_keys.read()
    assert (table.find(first, NOW_S), table.find(second, NOW_S)) == (None, api_key("ci"))


async def test_a_key_is_valid_until_it_expires(pool: Pool) -> None:
    """From that second on it is refused, and still listed."""
    secret = await pool.api_keys.add(api_key("ci", expires_s=NOW_S + 1))
    table = await pool.api_keys.read()
    assert (table.find(secret, NOW_S + 0.9), table.find(secret, NOW_S + 1)) == (table.listed[0], None)


async def test_a_new_policy_leaves_the_keys_alone(pool: Pool) -> None:
    """Keys are not part of the policy, which a file replaces as a whole."""
    secret = await pool.api_keys.add(api_key("ci"))
    await pool.policies.write(Policy(depth=7))
    assert (await pool.api_keys.read()).find(secret, NOW_S) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "a" * 63},
        {"sha256": 7},
        {"name": "other"},
        {"agent": "no name"},
        {"priority": "urgent"},
        {"in_flight": 0},
        {"expires_s": "never"},
    ],
)
async def test_a_key_that_cannot_be_read_is_refused_and_told(
    pool: Pool, change: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """It makes the pool ask for keys, other keys stay valid, and its name is logged, once; it can be revoked."""
    secret = await pool.api_keys.add(api_key("odd"))
    (document,) = await raw(pool).hvals(HASH)
    other = await pool.api_keys.add(api_key("ci"))
    await raw(pool).hset(HASH, "odd", json.dumps(json.loads(document) | change))
    known = KnownApiKeys(pool.api_keys, lambda: NOW_S)
    with caplog.at_level(logging.WARNING):
        assert [await known.find(one) for one in (secret, secret, other)] == [None, None, api_key("ci")]
    (record,) = caplog.records
    assert record.args == ("odd",)
    assert secret not in caplog.text
    assert (await pool.api_keys.read()).unreadable == ("odd",)
    assert await pool.api_keys.revoke("odd")


@pytest.mark.parametrize("document", ["", "[]", "\xff", "{", "null", "[" * 9_999])
async def test_no_content_of_the_hash_breaks_the_reader(pool: Pool, document: str) -> None:
    """Any Redis client may have written it."""
    await raw(pool).hset(HASH, b"\xfe\n", document.encode("latin-1"))
    table = await pool.api_keys.read()
    assert (table.keys, len(table.unreadable), bool(table)) == ({}, 1, True)


async def test_a_new_key_is_found_at_once(pool: Pool) -> None:
    """Though the gateway has read the keys before, it looks again for a secret that it does not know."""
    known = KnownApiKeys(pool.api_keys)
    assert not await known.are_used()
    secret = await pool.api_keys.add(api_key("ci", created_s=0))
    async with asyncio.timeout(5):
        while await known.find(secret) is None:
            await asyncio.sleep(0.05)


async def test_wrong_secrets_do_not_each_ask_the_server(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of them is answered from memory."""
    reads = 0
    read = pool.api_keys.read

    async def counted() -> object:
        nonlocal reads
        reads += 1
        return await read()

    monkeypatch.setattr(pool.api_keys, "read", counted)
    known = KnownApiKeys(pool.api_keys)
    began = asyncio.get_running_loop().time()
    assert [await known.find(f"tl-{number}") for number in range(500)] == [None] * 500
    assert reads <= 2 + (asyncio.get_running_loop().time() - began) / 0.25


async def test_the_error_of_an_absent_server_reaches_who_asks(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that has never read the keys lets nobody in."""

    async def away() -> None:
        raise PoolUnavailable("away")

    monkeypatch.setattr(pool.api_keys, "read", away)
    with pytest.raises(PoolUnavailable):
        await KnownApiKeys(pool.api_keys).find("tl-1")
