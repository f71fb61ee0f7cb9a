"""`tokenlane keys` as operators run it."""

from __future__ import annotations

import json
import shlex
import time
from typing import Any

import pytest
from tests.documents import commands_of
from tests.integration import life
from tests.integration.farm import Ended
from tests.integration.life import raw
from tests.repository import ROOT
from tests.verbs import run_in_thread

from tokenlane.config import exit_codes as exits
from tokenlane.routing.contract.envelope import Quota
from tokenlane.routing.store.access.api_key import ApiKey
from tokenlane.routing.store.pool import Pool

HASH = "{main}:api-keys"


async def keys(pool: Pool, *arguments: str) -> Ended:
    """Run the command."""
    return await run_in_thread("keys", *arguments, "--redis", pool.server.url)


async def document(pool: Pool, *arguments: str) -> Any:
    """The command's JSON."""
    ended = await keys(pool, *arguments, "--json")
    assert (ended.code, ended.error) == (exits.OK, "")
    return json.loads(ended.out)


async def test_a_key_from_beginning_to_end(pool: Pool) -> None:
    """The secret stands alone on standard output, so that a shell can keep it; afterwards nothing shows it."""
    began = int(time.time())
    options = ("--agent", "builder", "--role", "coder", "--priority", "low", "--in-flight", "4", "--expires", "90d")
    added = await keys(pool, "add", "ci", *options)
    assert added.code == exits.OK
    secret = added.out.removesuffix("\n")
    key = (await pool.api_keys.read()).find(secret, began)
    assert key is not None
    assert began <= key.created_s <= time.time()
    fields = {"name": "ci", "agent": "builder", "role": "coder", "priority": "low", "in_flight": 4}
    times = {"created_s": key.created_s, "expires_s": key.created_s + 90 * 86_400}
    assert key.model_dump() == fields | times
    assert secret not in added.error
    listed = await document(pool, "ls")
    assert listed["keys"] == [{**fields, **times, "expired": False, "used": 0}]
    table = await keys(pool, "ls")
    (row,) = [line for line in table.out.splitlines() if line.startswith("ci ")]
    assert row.split()[:5] == ["ci", "builder", "coder", "low", "0/4"]
    assert secret not in table.out + json.dumps(listed)
    assert (await document(pool, "revoke", "ci"))["revoked"] == "ci"
    assert (await document(pool, "ls"))["keys"] == []


async def test_what_a_key_uses_of_its_limit(pool: Pool) -> None:
    """Its own requests, until they end; a key without a limit uses none."""
    await keys(pool, "add", "ci", "--in-flight", "2")
    await keys(pool, "add", "free")

    async def used() -> dict[str, int | None]:
        return {key["name"]: key["used"] for key in (await document(pool, "ls"))["keys"]}

    first, *_ = [await life.submit(pool, life.envelope(quota=Quota(name="ci", in_flight=2))) for _ in range(2)]
    await life.submit(pool, life.envelope(quota=Quota(name="other", in_flight=2)))
    assert await used() == {"ci": 2, "free": None}
    assert "2/2" in (await keys(pool, "ls")).out
    await pool.requests.cancel(first)
    assert await used() == {"ci": 1, "free": None}


async def test_the_commands_of_the_docs(pool: Pool) -> None:
    """One after the other; in the end the pool has no key."""
    page = (ROOT / "docs" / "api-keys.md").read_text(encoding="utf-8")
    commands = [shlex.split(command) for command in commands_of(page)]
    assert [(await keys(pool, *words[2:])).code for words in commands] == [exits.OK] * 3
    assert not await pool.api_keys.read()


async def test_a_key_without_options_is_its_own_agents(pool: Pool) -> None:
    """As JSON, the secret is in the document."""
    added = await document(pool, "add", "ci")
    assert (added["key"]["agent"], added["key"]["role"], added["key"]["expires_s"]) == ("ci", None, None)
    key = (await pool.api_keys.read()).find(added["secret"], time.time())
    assert key == ApiKey.model_validate(added["key"])


async def test_a_name_is_given_once(pool: Pool) -> None:
    """The second key is not added, and nothing is on standard output."""
    await keys(pool, "add", "ci")
    before = await raw(pool).hgetall(HASH)
    again = await keys(pool, "add", "ci")
    assert (again.code, again.out) == (exits.FAILED, "")
    assert "tokenlane keys revoke ci" in again.error
    assert await raw(pool).hgetall(HASH) == before
    refused = await keys(pool, "add", "ci", "--json")
    assert json.loads(refused.out)["error"]["code"] == "api_key_exists"


@pytest.mark.parametrize(
    "wrong",
    [
        ("add", "a b"),
        ("add", ""),
        ("add", "ci", "--agent", "a/b"),
        ("add", "ci", "--role", "-x"),
        ("add", "ci", "--priority", "urgent"),
        ("add", "ci", "--in-flight", "0"),
        ("add", "ci", "--expires", "0s"),
        ("add", "ci", "--expires", "never"),
        ("add", "ci", "--expires", "999999999d"),
    ],
)
async def test_wrong_use_adds_nothing(pool: Pool, wrong: tuple[str, ...]) -> None:
    """Wrong options end with the exit code for wrong use."""
    ended = await keys(pool, *wrong)
    assert (ended.code, ended.out) == (exits.USAGE, "")
    assert await raw(pool).exists(HASH) == 0


async def test_revoking_an_unknown_key_names_the_others(pool: Pool) -> None:
    """A key that is misspelled stays valid, which the operator must learn."""
    await keys(pool, "add", "ci")
    ended = await keys(pool, "revoke", "cl")
    assert (ended.code, ended.out) == (exits.FAILED, "")
    assert "'cl'" in ended.error
    assert "ci" in ended.error
    assert len((await pool.api_keys.read()).listed) == 1


async def test_keys_that_cannot_be_read_and_keys_that_have_expired_are_listed(pool: Pool) -> None:
    """Both can be revoked, whatever the name is."""
    await pool.api_keys.add(ApiKey(name="old", agent="a", created_s=1, expires_s=2))
    await raw(pool).hset(HASH, "odd\x1b[31m", "{}")
    listed = await document(pool, "ls")
    assert [(key["name"], key["expired"]) for key in listed["keys"]] == [("old", True)]
    assert listed["unreadable"] == ["odd\x1b[31m"]
    table = await keys(pool, "ls")
    assert "expired" in table.out
    assert "odd?[31m" in table.error
    for name in ("old", "odd\x1b[31m"):
        assert (await keys(pool, "revoke", name)).code == exits.OK
    assert "tokenlane keys add" in (await keys(pool, "ls")).out
