"""The prompt plugin of a role changes what the model server gets, on every lane and in every attempt alike."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

import pytest
from tests.integration.farm import eventually
from tests.integration.lanes import lane_of
from tests.unit.worker.hooks.plugins import COUNTER, TRAPS, plugin

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import Client, PluginFailed
from tokenlane.routing.decide.policy import Candidate, Policy, PromptPolicy, RolePolicy
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.finding import Code
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.pool_health import find_problems
from tokenlane.worker.hooks.prompt_plugins import PromptPlugins, digest_of

TEMPLATE = plugin({"system": "You are terse.", "suffix": " Please."})


class Lanes:
    """Two lanes, of which the route prefers the first. Each has its own directory of plugins."""

    def __init__(self, first: Simulator, second: Simulator, folders: tuple[Path, Path]) -> None:
        self.first, self.second, self.folders = first, second, folders

    def install(self, code: bytes, *lanes: int) -> None:
        for lane in lanes:
            (self.folders[lane] / "p.wasm").write_bytes(code)

    def prompts(self) -> list[list[dict[str, Any]]]:
        """The messages of all requests, those of the first lane first."""
        received = [*self.first.log, *self.second.log]
        return [json.loads(each.body)["messages"] for each in received if b"hello" in each.body]


@pytest.fixture
async def lanes(redis_url: str, tmp_path: Path) -> AsyncIterator[Lanes]:
    async with AsyncExitStack() as stack:
        servers, folders = [], []
        for number in range(2):
            folder = tmp_path / f"plugins{number}"
            folder.mkdir()
            server = await stack.enter_async_context(Simulator(api="vllm"))
            plugins = PromptPlugins(folder, tmp_path / "cache")
            settings = LaneSettings(f"gpu{number}", "vllm", server.url)
            await stack.enter_async_context(lane_of(redis_url, settings, plugins=plugins))
            servers.append(server)
            folders.append(folder)
        yield Lanes(servers[0], servers[1], (folders[0], folders[1]))


async def write_policy(pool: Pool, code: bytes, on_error: Literal["fail", "skip"] = "fail") -> None:
    prompt = PromptPolicy(plugin=digest_of(code), on_error=on_error)
    route = (Candidate(lane="gpu0"), Candidate(lane="gpu1"))
    await pool.policies.write(Policy(roles={"planner": RolePolicy(route=route, prompt=prompt)}))


async def test_the_model_server_gets_the_plugins_prompt(lanes: Lanes, pool: Pool, client: Client) -> None:
    """Requests of other roles stay as they came, and the policy's next plugin counts for the next request."""
    lanes.install(TEMPLATE, 0)
    await write_policy(pool, TEMPLATE)
    await client.complete("hello", role="planner")
    await client.complete("hello", role="other", provider="vllm")
    system, user = lanes.prompts()[0]
    assert (system["role"], system["content"], user["content"]) == ("system", "You are terse.", "hello Please.")
    assert [message["content"] for message in lanes.prompts()[-1]] == ["hello"]
    await pool.policies.write(Policy())
    await client.complete("hello", role="planner", provider="vllm")
    assert [message["content"] for message in lanes.prompts()[-1]] == ["hello"]


async def test_a_continued_answer_has_the_same_prompt(lanes: Lanes, pool: Pool, client: Client) -> None:
    """On the other lane, too, although the plugin would count its calls if it could."""
    lanes.install(COUNTER, 0, 1)
    await write_policy(pool, COUNTER)
    lanes.first.faults.append(FaultScript(cut_after=5))
    answer = await client.complete("hello", role="planner")
    assert (answer.lane, answer.usage.attempts) == ("gpu1", 2)
    first, second = lanes.prompts()
    assert [message["content"] for message in first] == ["hello1"]
    assert second[0] == first[0]
    assert second[1]["role"] == "assistant"


async def test_a_lane_that_lacks_the_plugin_is_passed_over(lanes: Lanes, pool: Pool, client: Client) -> None:
    """Even if a failing plugin would not matter. If no lane has it, the error names a lane and the plugin."""
    lanes.install(TEMPLATE, 1)
    await write_policy(pool, TEMPLATE, "skip")
    answer = await client.complete("hello", role="planner")
    assert (answer.lane, answer.usage.attempts) == ("gpu1", 2)
    missing = plugin({"suffix": "?"})
    await write_policy(pool, missing)
    with pytest.raises(PluginFailed, match=digest_of(missing)) as raised:
        await client.complete("hello", role="planner")
    assert raised.value.lane in ("gpu0", "gpu1")
    assert "[advanced]" in raised.value.message


async def test_a_plugin_that_traps(lanes: Lanes, pool: Pool, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """It fails its request, not the worker and not the lane; or the request is sent as it came, with a warning."""
    lanes.install(TRAPS, 0)
    await write_policy(pool, TRAPS)
    for _ in range(6):  # more than a circuit breaker allows
        with pytest.raises(PluginFailed, match="unreachable") as raised:
            await client.complete("hello", role="planner")
        assert raised.value.lane == "gpu0"
    assert lanes.prompts() == []
    await write_policy(pool, TRAPS, "skip")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "tokenlane.worker.hooks"):
        for _ in range(2):
            assert (await client.complete("hello", role="planner")).lane == "gpu0"
    assert [[message["content"] for message in messages] for messages in lanes.prompts()] == [["hello"]] * 2
    assert len([record for record in caplog.records if "unreachable" in record.getMessage()]) == 1
    assert "hello" not in caplog.text


async def test_doctor_names_the_workers_that_lack_a_plugin(lanes: Lanes, pool: Pool, client: Client) -> None:
    """A failure while no lane of the role can use it, and a warning once one has used it."""

    async def severities() -> list[str]:
        found = find_problems(await take_snapshot(pool))
        return [told.severity for told in found if (told.code, told.subject) == (Code.PLUGIN_MISSING, "planner")]

    async def fails() -> bool:
        return await severities() == ["fail"]

    async def warns() -> bool:
        return await severities() == ["warn"]

    await write_policy(pool, TEMPLATE)
    await eventually(fails)
    lanes.install(TEMPLATE, 0)
    await client.complete("hello", role="planner")
    await eventually(warns)
