"""`tokenlane up` with a file: all its lanes, and its policy."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from signal import SIGINT, SIGKILL

import pytest
from tests.integration.farm import Farm, eventually, farm
from tests.integration.servers import free_port

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.exit_codes import CANCELLED, OK
from tokenlane.producer import Client
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot


@pytest.fixture
async def site(tmp_path: Path, redis_url: str) -> AsyncIterator[Farm]:
    """Commands of the pool."""
    async with farm(tmp_path, redis_url) as opened:
        yield opened


def write(folder: Path, **lanes: str) -> str:
    """A file with these lanes and their endpoints, whose roles of the same names are routed to them."""
    file = folder / "llm.toml"
    file.write_text(
        "".join(
            f'[lanes.{lane}]\nprovider = "openai"\nendpoint = "{endpoint}"\n[roles.{lane}]\nroute = ["lane:{lane}"]\n'
            for lane, endpoint in lanes.items()
        )
    )
    return str(file)


async def test_up_serves_every_lane_and_gives_a_new_pool_its_policy(site: Farm, tmp_path: Path, pool: Pool) -> None:
    """A worker runs for each lane of the file, and roles are routed as the file says."""
    async with Simulator() as first, Simulator() as second:
        up = await site.tokenlane("up", "--supervised", "--config", write(tmp_path, one=first.url, two=second.url))
        await up.says("Stop:  Ctrl-C")
        for line in ("policy  revision 1", "lane    one", "lane    two"):
            assert line in up.out
        async with Client(site.url) as client:
            for lane in ("one", "two"):
                assert (await client.complete("hello", role=lane)).lane == lane
        assert (await up.end()).code == OK

        async def no_lane_accepts_work() -> bool:
            return not any(lane.state.accepts_work for lane in (await pool.survey()).lanes)

        await eventually(no_lane_accepts_work)


@pytest.mark.kills
async def test_what_a_killed_worker_ran_goes_on_at_once(site: Farm, pool: Pool) -> None:
    """`up` sees its worker die, and no lease has to lapse before what that ran is run again."""
    await pool.policies.write(Policy(lease_ms=600_000))
    async with Simulator(faults=[FaultScript(hold_after=0)]) as simulator, Client(site.url) as client:
        up = await site.tokenlane("up", "--supervised", "--provider", "openai", "--endpoint", simulator.url)
        await up.says("Stop:  Ctrl-C")
        async with client.chat("hello", role="planner") as stream:
            await simulator.held()
            (worker,) = [worker for lane in (await take_snapshot(pool)).lanes for worker in lane.workers]
            os.kill(int(worker.name.split("-")[-2]), SIGKILL)
            async with asyncio.timeout(30):
                answer = await stream.answer()
        assert (bool(answer.text), answer.usage.attempts) == (True, 2)
        assert (await up.end()).code == OK


async def test_up_leaves_the_policy_of_a_pool_of_others(site: Farm, tmp_path: Path, pool: Pool) -> None:
    """A pool that has a policy already keeps it, and who starts `up` with another one is told."""
    await pool.policies.write(Policy(depth=7))
    async with Simulator() as simulator:
        file = write(tmp_path, one=simulator.url)
        up = await site.tokenlane("up", "--supervised", "--json", "--config", file)
        await up.says('"ready"')
        (told,) = [json.loads(line) for line in up.out.splitlines() if '"policy"' in line]
        assert "tokenlane policy diff" in told["policy"]
        assert (await up.end()).code == OK
    policy = await pool.policies.read()
    assert (policy.revision, policy.depth) == (1, 7)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="arguments of processes are read from /proc")
@pytest.mark.parametrize("by_option", [False, True])
async def test_an_endpoint_s_password_is_in_no_arguments(site: Farm, by_option: bool) -> None:
    """The worker of `up` is told the endpoint, whatever said it, where others cannot read it."""
    async with Simulator() as simulator:
        at = simulator.url.replace("://", "://user:hunter2@")
        options = ("--llm", "endpoint=http://127.0.0.1:1", "--endpoint", at) if by_option else ()
        up = await site.tokenlane(
            *("up", "--supervised", "--provider", "openai", *options),
            **({} if by_option else {"TOKENLANE_ENDPOINT": at}),
        )
        await up.says("Stop:  Ctrl-C")
        children = Path(f"/proc/{up.process.pid}/task/{up.process.pid}/children").read_text().split()
        arguments = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
        assert any(b"worker" in it.split(b"\0") for it in arguments)
        assert not any(b"hunter2" in it for it in arguments)
        async with Client(site.url) as client:
            assert (await client.complete("hello", role="planner")).text
        assert (await up.end()).code == OK


@pytest.mark.parametrize(
    ("verb", "provider", "dialect", "told"),
    [
        ("up", "ollama", None, "cannot be reached: nothing listens there"),
        ("demo", "ollama", None, "cannot be reached: nothing listens there"),
        ("up", "ollama", "vllm", 'set provider = "vllm"'),
        ("up", "vllm", "vllm", "the model server does not have model 'phi3'"),
    ],
)
async def test_a_model_server_that_cannot_work_is_told(
    site: Farm, tmp_path: Path, pool: Pool, verb: str, provider: str, dialect: str | None, told: str
) -> None:
    """What is wrong with a configured model server is said at once, with where and what to do; `up` goes on waiting."""
    file = tmp_path / "llm.toml"
    async with Simulator(api=dialect or "ollama") as simulator:
        url = simulator.url if dialect else f"http://127.0.0.1:{free_port()}"
        file.write_text(f'[defaults]\nprovider = "{provider}"\nmodel = "phi3"\n[{provider}]\nendpoint = "{url}"\n')
        code = "from tokenlane.config.cli.root import main\nmain()\n"
        running = await site.python(code, verb, "--redis", site.url, TOKENLANE_CONFIG=str(file))
        await running.says("problem ")
        (line,) = [line for line in running.out.splitlines() if line.startswith("problem ")]
        assert line.startswith(f"problem {provider} at http://")
        assert f"{url.rpartition(':')[2]}, for phi3: " in line
        assert told in line
        assert "`tokenlane probe`" in line
        assert running.running
        ended = await running.end(SIGINT)
        assert ended.code == (OK if verb == "up" else CANCELLED)


async def test_a_lane_without_its_model_server_keeps_no_other_from_serving(
    site: Farm, tmp_path: Path, pool: Pool
) -> None:
    """A lane whose model server does not answer is reported as waiting, and accepts work once the server answers."""
    port = free_port()
    async with Simulator() as simulator:
        file = write(tmp_path, one=simulator.url, two=f"http://127.0.0.1:{port}")
        up = await site.tokenlane("up", "--supervised", "--config", file)
        await up.says("lane    two, waiting")
        await up.says("lane    one, 4 at once")
        async with Simulator(port=port), Client(site.url) as client:
            await up.says("lane    two, 4 at once")
            assert [(await client.complete("q", role=role)).lane for role in ("one", "two")] == ["one", "two"]


async def test_up_ends_when_a_lane_cannot_be_served(site: Farm, tmp_path: Path, pool: Pool) -> None:
    """A lane whose model server refuses its worker ends `up`, the workers of the other lanes with it."""
    async with Simulator() as simulator, Simulator(api="vllm", api_key="right") as refusing:
        file = write(tmp_path, one=simulator.url, two=refusing.url)
        ended = await (await site.tokenlane("up", "--supervised", "--config", file)).ended()
        assert ended.code != OK
        assert "two" in ended.error
        assert not any(lane.state.accepts_work for lane in (await pool.survey()).lanes)
