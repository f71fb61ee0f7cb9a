"""`tokenlane models swap`: the new model answers first, the route moves in one revision, and no request fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from tests.integration.farm import Ended
from tests.integration.lanes import lane_of
from tests.verbs import run_in_thread
from tests.waiting import until

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import Client
from tokenlane.producer.commands.swap_steps import Swap, SwapStep
from tokenlane.routing.contract.errors import BadRequest, DeadlineExceeded, ModelNotFound, ProviderDown
from tokenlane.routing.decide.policy import Candidate, Policy, PolicyChanged, RolePolicy
from tokenlane.routing.store.pool import Pool

OLD = RolePolicy(route=(Candidate(provider="ollama", model="old:latest"),))
TOKENS, STREAMS = 24, 50


@asynccontextmanager
async def a_lane(redis_url: str, pool: Pool, **more: object) -> AsyncIterator[Simulator]:
    """A lane with two models, of which the planner's route names the old one."""
    await pool.policies.write(Policy(roles={"planner": OLD}))
    server = Simulator(
        api="ollama",
        models=["old", "new"],
        tokens=TOKENS,
        capacity=STREAMS + 1,
        **more,  # type: ignore[arg-type]  # as the parameters are
    )
    async with server, lane_of(redis_url, LaneSettings("gpu0", "ollama", server.url, capacity=STREAMS)):
        yield server


@dataclass
class Swaps:
    """Swaps of the planner's model, and the steps that they reported."""

    client: Client
    pool: Pool
    steps: list[SwapStep] = field(default_factory=list)

    async def to(self, model: str | None, *, timeout_s: float = 20, unloads_old: bool = False) -> None:
        swap = Swap(self.client, self.pool, "planner", model, self.steps.append, lambda _: None, timeout_s, unloads_old)
        await swap.run()

    @property
    def names(self) -> list[str]:
        return [step.step for step in self.steps]


async def test_swaps_under_load_fail_no_request(redis_url: str, pool: Pool, client: Client) -> None:
    """Conversations go on during swaps back and forth: each answer is complete, from one model, and each question
    repeats the prompt before it byte for byte."""
    whole = "".join(f"w{number} " for number in range(TOKENS))
    async with a_lane(redis_url, pool, itl_ms=4) as server:
        is_over = asyncio.Event()

        async def talk(number: int) -> int:
            conversation, questions = client.conversation(role="planner"), 0
            while not (is_over.is_set() and questions > 1):
                questions += 1
                answer = await conversation.complete(f"question {questions} of agent {number}")
                assert answer.text == whole
                assert answer.usage is not None
                assert answer.usage.attempts == 1
            return questions

        async with asyncio.TaskGroup() as tasks:
            agents = [tasks.create_task(talk(number)) for number in range(STREAMS)]
            swaps = Swaps(client, pool)
            for number in range(5):
                ended = len(server.log) + STREAMS // 2
                await server.log.wait_for(lambda ended=ended: len(server.log) >= ended, 20)  # type: ignore[misc]
                await swaps.to("new" if number % 2 == 0 else "old")
            is_over.set()
        chats = [each for each in server.log if each.path == "/api/chat" and b"question" in each.body]
        assert len(chats) == sum(agent.result() for agent in agents)
        assert {each.ended for each in server.log} == {"completed"}
        assert {each.model for each in chats} == {"old:latest", "new:latest"}
        prompts: dict[str, str] = {}
        for each in chats:
            body = json.loads(each.body)
            prompt = json.dumps(body["messages"]).removesuffix("]")
            agent = body["messages"][0]["content"]
            assert prompt.startswith(prompts.get(agent, "["))
            prompts[agent] = prompt
        assert len(prompts) == STREAMS
    assert swaps.names.count("moved") == 5
    assert (await pool.policies.read()).revision == 6


async def test_an_answer_that_runs_ends_on_the_old_model(redis_url: str, pool: Pool, client: Client) -> None:
    """It is not moved, cut off or repeated, neither by the swap nor by going back."""
    async with a_lane(redis_url, pool, loaded=["old"]) as server:
        server.faults.append(FaultScript(hold_after=3))
        async with client.chat("hi", role="planner") as stream:
            await server.held(1)
            swaps = Swaps(client, pool)
            await swaps.to("new")
            assert swaps.names == ["loaded", "answered", "moved"]
            assert (await client.complete("hi", role="planner")).model == "new:latest"
            await swaps.to(None)
            server.release()
            answer = await stream.answer()
        assert (answer.model, len(answer.text.split())) == ("old:latest", TOKENS)
        assert (await client.complete("hi", role="planner")).model == "old:latest"


async def test_a_swap_that_fails_changes_nothing(redis_url: str, pool: Pool, client: Client) -> None:
    """The new model fails, does not answer in time, or is unknown."""
    async with a_lane(redis_url, pool, loaded=["old", "new"]) as server:
        swaps = Swaps(client, pool)
        server.faults.append(FaultScript(status=400, error="secret of the server"))
        with pytest.raises(BadRequest) as failed:
            await swaps.to("new")
        assert (failed.value.lane, failed.value.model) == ("gpu0", "new:latest")
        assert "secret" not in str(failed.value)
        with pytest.raises(ModelNotFound):
            await swaps.to("unknown")
        server.faults.append(FaultScript(hold_after=0))
        with pytest.raises(DeadlineExceeded) as late:
            await swaps.to("new", timeout_s=0.5)
        assert (late.value.lane, late.value.model) == ("gpu0", "new:latest")
        for nonsense in (FaultScript(tokens=0), FaultScript(cut_after=3)):
            server.faults.append(nonsense)
            with pytest.raises(ProviderDown):
                await swaps.to("new")
        assert await pool.policies.read() == Policy(revision=1, roles={"planner": OLD})
        assert (await client.complete("hi", role="planner")).model == "old:latest"


async def test_a_swap_whose_lane_goes_away_ends(
    redis_url: str, pool: Pool, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before its deadline, once the worker has been away for longer than a restart takes."""
    monkeypatch.setattr("tokenlane.routing.decide.lanes.offer.RESTART_MS", 500)
    swaps = Swaps(client, pool)
    async with a_lane(redis_url, pool, loaded=["old", "new"]) as server:
        server.faults.append(FaultScript(hold_after=0))
        swapping = asyncio.create_task(swaps.to("new", timeout_s=3600))
        await server.held(1)
    with pytest.raises(ProviderDown) as failed:
        await swapping
    assert (failed.value.lane, failed.value.model) == ("gpu0", "new:latest")
    assert swaps.steps == []
    assert (await pool.policies.read()).revision == 1


async def test_a_policy_that_never_rests(pool: Pool, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A swap does not try for ever to write the policy."""

    async def changed(*_: object, **__: object) -> int:
        await asyncio.sleep(0)
        raise PolicyChanged

    swaps = Swaps(client, pool)
    swap = Swap(client, pool, "planner", "new", swaps.steps.append, lambda _: None, 1)
    monkeypatch.setattr(pool.policies, "write", changed)
    with pytest.raises(DeadlineExceeded):
        await swap._move(Policy(), {"planner": OLD.route}, asyncio.get_running_loop().time() + 0.1)
    assert swaps.steps == []


async def test_a_swap_meets_other_changes_of_the_policy(redis_url: str, pool: Pool, client: Client) -> None:
    """Changes of other rules stay. If the role's own rules change before the new model answers, the swap ends."""
    async with a_lane(redis_url, pool, loaded=["old", "new"]) as server:
        swaps = Swaps(client, pool)
        for planner in (OLD, OLD.model_copy(update={"weight": 2})):
            server.faults.append(FaultScript(hold_after=0))
            swapping = asyncio.create_task(swaps.to("new"))
            await until(lambda: any(each.held for each in server.log))
            coder = RolePolicy(weight=3)
            await pool.policies.write(Policy(roles={"planner": planner, "coder": coder}))
            server.release()
            if planner == OLD:
                await swapping
                policy = await pool.policies.read()
                assert policy.roles["planner"].route == (Candidate(provider="ollama", model="new"),)
                assert (policy.revision, policy.roles["coder"]) == (3, coder)
                await swaps.to(None)
            else:
                with pytest.raises(PolicyChanged):
                    await swapping
                assert (await pool.policies.read()).roles["planner"] == planner


async def test_a_role_that_takes_the_old_model_during_a_swap(redis_url: str, pool: Pool, client: Client) -> None:
    """The model is not unloaded under it."""
    async with a_lane(redis_url, pool, loaded=["old", "new"]) as server:
        server.faults.append(FaultScript(hold_after=0))
        swaps = Swaps(client, pool)
        swapping = asyncio.create_task(swaps.to("new", unloads_old=True))
        await until(lambda: any(each.held for each in server.log))
        await pool.policies.write(Policy(roles={"planner": OLD, "coder": OLD}))
        server.release()
        await swapping
        assert swaps.names == ["answered", "moved", "kept"]
        assert {each.id for each in server.models.loaded()} == {"old:latest", "new:latest"}


async def test_going_back_to_no_route(redis_url: str, pool: Pool, client: Client) -> None:
    """The role used whatever the pool has: no model is loaded or asked for it, and the old model stays loaded."""
    async with a_lane(redis_url, pool, loaded=["old", "new"]) as server:
        await pool.policies.write(Policy(roles={"planner": RolePolicy()}))
        swaps = Swaps(client, pool)
        await swaps.to("new", unloads_old=True)
        assert swaps.names == ["answered", "moved"]
        asked = len(server.log)
        await swaps.to(None)
        assert swaps.names == ["answered", "moved", "moved"]
        assert all(each.path != "/api/chat" for each in list(server.log)[asked:])
        assert (await pool.policies.read()).roles["planner"].route == ()


async def test_a_lane_that_keeps_an_entry_of_a_provider(redis_url: str, pool: Pool, client: Client) -> None:
    """Its old model is unloaded, although the entry for all lanes of the provider still leads to it."""
    async with a_lane(redis_url, pool, loaded=["old", "new"]) as server:
        steps: list[SwapStep] = []
        await Swap(client, pool, "gpu0", "new", steps.append, lambda _: None, 20, unloads_old=True).run()
        assert [step.step for step in steps] == ["answered", "moved", "unloaded"]
        assert [each.id for each in server.models.loaded()] == ["new:latest"]


async def test_a_lane_that_cannot_unload_keeps_the_old_model(redis_url: str, pool: Pool, client: Client) -> None:
    """The swap succeeds, and says so."""
    await pool.policies.write(Policy(roles={"planner": RolePolicy(route=(Candidate(model="old"),))}))
    explained: list[str] = []
    server = Simulator(api="openai", models=["old", "new"])
    async with server, lane_of(redis_url, LaneSettings("gpu0", "openai", server.url)):
        swaps = Swaps(client, pool)
        await Swap(client, pool, "planner", "new", swaps.steps.append, explained.append, 20, unloads_old=True).run()
    assert (swaps.names, len(explained)) == (["answered", "moved"], 1)


async def test_the_command(redis_url: str, pool: Pool) -> None:
    """It prints each step, unloads the old model if asked, undoes, and refuses with the exit codes of all verbs."""
    async with a_lane(redis_url, pool) as server:

        async def run(*arguments: str) -> Ended:
            return await run_in_thread("models", "swap", *arguments, "--redis", redis_url)

        done = await run("planner", "--to", "new", "--unload-old", "--json")
        steps = [json.loads(line) for line in done.out.splitlines()]
        assert (done.code, [step["step"] for step in steps]) == (0, ["loaded", "answered", "moved", "unloaded"])
        assert steps[2] == {
            "step": "moved",
            "role": "planner",
            "before": [{"provider": "ollama", "model": "old:latest"}],
            "route": [{"provider": "ollama", "model": "new"}],
            "revision": 2,
        }
        assert [each.id for each in server.models.loaded()] == ["new:latest"]
        assert (await run("planner", "--to", "new")).out.startswith("unchanged")
        back = await run("lane:gpu0", "--to", "old:latest")
        assert [line.split()[0] for line in back.out.splitlines()] == ["loaded", "answered", "moved", "Undo"]
        assert (await run("gpu0", "--back")).code == 0
        assert (await pool.policies.read()).roles["planner"].route == (Candidate(provider="ollama", model="new"),)
        for arguments, code in (
            (("plannr", "--to", "new"), 2),
            (("planner", "--to", "unknown"), 1),
            (("planner",), 2),
            (("planner", "--to", "new", "--back"), 2),
        ):
            refused = await run(*arguments, "--json")
            assert (refused.code, list(json.loads(refused.out))) == (code, ["error"])
