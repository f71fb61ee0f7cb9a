"""`tokenlane policy`, and that the pool's policy is the only one: whatever files its hosts have."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration import life
from tests.integration.farm import Ended, Farm, farm
from tests.integration.life import raw
from tests.verbs import run_in_thread

from tokenlane.benches.simulator import Simulator
from tokenlane.config.exit_codes import FAILED, OK, USAGE
from tokenlane.config.host.pool_key_files import KeyRing, PoolKey
from tokenlane.producer import Client
from tokenlane.routing.contract.errors import QueueFull
from tokenlane.routing.decide.policy import Candidate, Limits, Policy, PolicyChanged, RolePolicy
from tokenlane.routing.store.pool import Pool

FILE = """\
[policy]
lease_ms = 5000
[roles.coder]
route = ["lane:gpu1"]
limits = { depth = 5 }
"""


@pytest.fixture
async def site(tmp_path: Path, redis_url: str) -> AsyncIterator[Farm]:
    """Commands of the pool."""
    async with farm(tmp_path, redis_url) as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An llm.toml with a policy."""
    path = tmp_path / "llm.toml"
    path.write_text(FILE, encoding="utf-8")
    return path


async def run(site: Farm, *arguments: str, code: int = OK) -> Ended:
    ended = await run_in_thread("policy", *arguments, "--redis", site.url)
    assert ended.code == code, ended
    return ended


async def test_an_open_pool_keeps_no_payloads(site: Farm, tmp_path: Path, pool: Pool) -> None:
    """A pool without a key refuses `keep_payload`, and `diff` and a dry run warn of it; a pool with a key takes it."""
    file = tmp_path / "keeps.toml"
    file.write_text("[failed]\nkeep_payload = true\n", encoding="utf-8")
    assert "keep_payload" in (await run(site, "diff", str(file), code=FAILED)).error
    assert "keep_payload" in (await run(site, "apply", str(file), "--dry-run")).error
    refused = await run(site, "apply", str(file), "--json", code=USAGE)
    assert json.loads(refused.out)["error"]["code"] == "policy_refused"
    assert (await pool.policies.read()).revision == 0
    await pool.key_agreement.join(KeyRing((PoolKey.new(),)), unseals=True)
    assert "keep_payload" in (await run(site, "apply", str(file))).out
    assert (await pool.policies.read()).keep_payload


async def test_a_file_is_compared_and_applied(site: Farm, file: Path, pool: Pool) -> None:
    """`diff` shows what `apply` will do, and nothing is left to show after it; a dry run changes nothing."""
    shown = await run(site, "diff", str(file), code=FAILED)
    assert "-lease_ms = 10000\n+lease_ms = 5000" in shown.out
    assert "+[roles.coder]" in shown.out
    assert (await run(site, "apply", str(file), "--dry-run")).out == shown.out
    assert (await pool.policies.read()).revision == 0
    assert (await run(site, "apply", str(file))).out == shown.out
    policy = await pool.policies.read()
    assert (policy.revision, policy.lease_ms, policy.roles["coder"].limits.depth) == (1, 5_000, 5)
    assert "revision 1" in (await run(site, "diff", str(file))).out
    assert "nothing to change" in (await run(site, "apply", str(file))).error
    assert (await pool.policies.read()).revision == 1


async def test_the_policy_is_shown_as_a_file(site: Farm, tmp_path: Path, pool: Pool) -> None:
    """What `show` prints can be applied and changes nothing; as JSON it has the revision."""
    await pool.policies.write(Policy(roles={"a.b": RolePolicy(route=(Candidate(lane="x", model="m"),))}, depth=7))
    shown = tmp_path / "shown.toml"
    shown.write_text((await run(site, "show")).out, encoding="utf-8")
    assert "# pool main, revision 1" in shown.read_text()
    await run(site, "diff", str(shown))
    document = json.loads((await run(site, "show", "--json")).out)
    assert (document["revision"], document["depth"]) == (1, 7)


async def test_an_outdated_apply_is_refused(site: Farm, file: Path, pool: Pool) -> None:
    """Who says which revision was looked at writes nothing once there is another."""
    await pool.policies.write(Policy(depth=5))
    ended = await run(site, "apply", str(file), "--revision", "0", code=FAILED)
    assert "revision 1, not 0" in ended.error
    assert (await pool.policies.read()).depth == 5
    await run(site, "apply", str(file), "--revision", "1")


async def test_a_file_without_a_policy_is_refused(site: Farm, tmp_path: Path, pool: Pool) -> None:
    """A file that says nothing of the policy cannot empty the pool's."""
    (tmp_path / "other.toml").write_text('[ollama]\nendpoint = "http://h"')
    await pool.policies.write(Policy(depth=5))
    for verb in ("apply", "diff"):
        assert "[roles]" in (await run(site, verb, str(tmp_path / "other.toml"), code=USAGE)).error
    assert (await pool.policies.read()).depth == 5


async def test_of_two_who_compared_with_the_same_revision_one_writes(pool: Pool) -> None:
    """Many write at once, all from revision 1: one succeeds, and the policy is its."""
    await pool.policies.write(Policy())
    wanted = [Policy(depth=depth) for depth in range(1, 9)]
    results = await asyncio.gather(*(pool.policies.write(one, expected=1) for one in wanted), return_exceptions=True)
    written = [one for one, result in zip(wanted, results, strict=True) if result == 2]
    assert len(written) == 1
    assert sum(isinstance(result, PolicyChanged) for result in results) == len(wanted) - 1
    assert (await pool.policies.read()).depth == written[0].depth


async def test_a_policy_sent_twice_is_one(pool: Pool) -> None:
    """The second time a policy is written answers as the first did and changes nothing."""
    first = await pool.policies.write(Policy(depth=5), expected=0)
    after = await life.snapshot(raw(pool))
    assert await pool.policies.write(Policy(depth=5), expected=0) == first
    assert await life.snapshot(raw(pool)) == after


@pytest.mark.parametrize("limit", ["depth", "in_flight"])
async def test_a_role_may_have_limits_of_its_own(pool: Pool, limit: str) -> None:
    """A role's own limit holds for it alone, and is gone with the next policy."""
    limits = Limits.model_validate({limit: 1})
    await pool.policies.write(Policy(roles={"planner": RolePolicy(limits=limits)}))
    await life.submit(pool)
    with pytest.raises(QueueFull):
        await life.submit(pool)
    await life.submit(pool, life.envelope(role="coder"))
    await pool.policies.write(Policy())
    await life.submit(pool)
    await life.audit(raw(pool))


async def test_two_hosts_with_different_files_route_alike(site: Farm, file: Path, tmp_path: Path, pool: Pool) -> None:
    """Each host's own file routes the role to its own lane, as do its variables; the pool's policy decides."""
    async with Simulator() as first, Simulator() as second:
        for lane, backend in (("gpu0", first), ("gpu1", second)):
            own = tmp_path / f"{lane}.toml"
            own.write_text(f'[lanes.{lane}]\nprovider = "openai"\n[roles.coder]\nroute = ["lane:{lane}"]\n')
            route = {"TOKENLANE_ROLES__CODER__ROUTE": f"lane:{lane}"}
            await site.worker(lane, backend, "--config", str(own), **route)
        await run(site, "apply", str(file))
        async with Client(site.url) as client:
            answers = [await client.complete("hello", role="coder") for _ in range(4)]
            assert {answer.lane for answer in answers} == {"gpu1"}
            file.write_text(FILE.replace("gpu1", "gpu0"))
            await run(site, "apply", str(file))
            answers = [await client.complete("hello", role="coder") for _ in range(4)]
            assert {answer.lane for answer in answers} == {"gpu0"}


async def test_a_policy_comes_from_standard_input(site: Farm, pool: Pool) -> None:
    """`-` is standard input, for `diff` as for `apply`; what is wrong in it is told with its line."""
    for verb, text, code in (
        ("diff", FILE, FAILED),
        ("apply", FILE, OK),
        ("diff", FILE, OK),
        ("apply", "[roles.coder]\nroute = []", USAGE),
    ):
        child = await site.tokenlane("policy", verb, "-")
        assert child.process.stdin is not None
        child.process.stdin.write(text.encode())
        child.process.stdin.close()
        ended = await child.ended()
        assert ended.code == code, ended
        assert ("standard input:2" in ended.error) == (code == USAGE)
    assert (await pool.policies.read()).roles["coder"].route == (Candidate(lane="gpu1"),)


async def test_a_route_to_nowhere_is_applied_with_a_warning(site: Farm, file: Path, pool: Pool) -> None:
    """The role and the lane are named, to people and in JSON; a dry run and `diff` warn, too."""
    document = json.loads((await run(site, "diff", str(file), "--json", code=FAILED)).out)
    assert ["gpu1" in warning for warning in document["warnings"]] == [True]
    for arguments, code in ((("diff",), FAILED), (("apply", "--dry-run"), OK), (("apply",), OK)):
        ended = await run(site, *arguments, str(file), code=code)
        assert "warning" in ended.error
        assert "'coder'" in ended.error
        assert "'gpu1'" in ended.error
    document = json.loads((await run(site, "apply", str(file), "--json")).out)
    assert (document["before"], document["revision"], document["changes"]) == (1, 1, [])
    assert ["gpu1" in warning for warning in document["warnings"]] == [True]


async def test_the_order_of_aliases_is_part_of_the_policy(site: Farm, tmp_path: Path, pool: Pool) -> None:
    """What is shown can be applied; the same aliases in another order are a change."""
    file = tmp_path / "aliases.toml"
    aliases = ['"gpt-4*" = "planner"', '"gpt-*" = "coder"']
    file.write_text("\n".join(["[aliases]", *aliases]), encoding="utf-8")
    await run(site, "apply", str(file))
    assert list((await pool.policies.read()).aliases.items()) == [("gpt-4*", "planner"), ("gpt-*", "coder")]
    shown = (await run(site, "show")).out
    assert [line for line in shown.splitlines() if line in aliases] == aliases
    file.write_text(shown, encoding="utf-8")
    await run(site, "diff", str(file))
    file.write_text("\n".join(["[aliases]", *reversed(aliases)]), encoding="utf-8")
    await run(site, "diff", str(file), code=FAILED)
    await run(site, "apply", str(file))
    assert list((await pool.policies.read()).aliases) == ["gpt-*", "gpt-4*"]
