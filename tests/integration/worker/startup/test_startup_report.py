"""What `tokenlane worker` says when it comes to a pool, and `worker --check`, which says it and ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from pydantic import JsonValue
from tests.integration import life
from tests.integration.farm import Child, Ended, Farm, Server, eventually, farm
from tests.integration.lanes import lane_of
from tests.integration.life import raw
from tests.integration.servers import free_port
from tests.lanes import chats
from tests.verbs import run_in_thread

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config import exit_codes as exits
from tokenlane.config.host.pool_key_files import KeyRing, PoolKey
from tokenlane.config.settings.values import LaneSettings, RedisSettings
from tokenlane.producer import Client
from tokenlane.routing.decide.lanes.offer import Announcement
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.finding import Code
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.worker.startup.make_report import dry_run, report_on_lane
from tokenlane.worker.startup.startup_report import Destination, StartupReport

ELSEWHERE = Policy(roles={"coder": RolePolicy(route=(Candidate(provider="vllm", model="m9"),))})


@pytest.fixture
async def processes(tmp_path: Path, redis_url: str) -> AsyncIterator[Farm]:
    async with farm(tmp_path, redis_url) as opened:
        yield opened


@pytest.fixture
async def backend() -> AsyncIterator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


@pytest.fixture
async def redis_port(tmp_path: Path) -> AsyncIterator[int]:
    """The port of a program that is no model server."""
    async with Server(tmp_path) as server:
        yield server.port


async def check(processes: Farm, endpoint: str, *more: str) -> Ended:
    """Run `worker --check` to its end."""
    serving = ("--lane", "gpu0", "--provider", "llamacpp", "--endpoint", endpoint)
    return await run_in_thread("worker", "--check", *serving, *more, "--redis", processes.url)


async def arrive_at(pool: Pool, endpoint: str, *models: str, keys: KeyRing | None = None) -> StartupReport:
    """What lane gpu0 would find there; without keys of its own or any beside the server's socket."""
    settings = LaneSettings("gpu0", "llamacpp", endpoint=endpoint, models=models)
    return await arrive(settings, pool, keys)


async def arrive(settings: LaneSettings, pool: Pool, keys: KeyRing | None = None) -> StartupReport:
    """What a lane of these settings would find."""
    return await dry_run(Destination(settings, RedisSettings(pool.server.url, keys or KeyRing()), "main", "auto"))


def block(text: str) -> dict[str, str]:
    """The block's lines by their first word."""
    return {line[:10].strip(): line[10:] for line in text.splitlines() if line[:10].strip()}


async def test_a_check_announces_nothing(processes: Farm, pool: Pool, backend: Simulator) -> None:
    """It tells pool, key, lane, endpoint, models, capacity with its source and roles, and leaves the pool as it was."""
    ended = await check(processes, backend.url, "--capacity", "7")
    assert (ended.code, ended.error) == (exits.OK, "")
    said = block(ended.out)
    assert list(said) == ["pool", "key", "lane", "endpoint", "models", "capacity", "roles", "checked", "unchecked"]
    assert "no chat" in said["unchecked"]
    assert said["endpoint"].startswith(f"{backend.url}, answered in ")
    assert (said["lane"], said["models"]) == ("gpu0, provider llamacpp", "sim")
    assert (said["capacity"].startswith("7 "), "--capacity" in said["capacity"]) == (True, True)
    assert said["roles"] == "all: the policy has no routes"
    assert await life.dump(raw(pool)) == {}


async def test_what_is_found_is_served(processes: Farm, backend: Simulator) -> None:
    """A worker that is told no provider takes the one it finds, as `up` does, and says so."""
    worker = await processes.tokenlane("worker", "--check", "--endpoint", backend.url)
    ended = await worker.ended()
    assert (ended.code, ended.error) == (exits.OK, "")
    said = block(ended.out)
    assert said["found"].startswith("sim on llama.cpp at ")
    assert said["lane"].endswith("-llamacpp, provider llamacpp")


async def test_a_models_name_cannot_draw(processes: Farm, pool: Pool) -> None:
    """What would move the cursor or ring the bell is a question mark, and a name has no line of its own."""
    drawing = "\x1b[2Jm\x07\nproblem   none"
    async with Simulator(models=(drawing,)) as backend:
        arrival = await arrive_at(pool, backend.url, "other")
        found = await run_in_thread("worker", "--check", "--endpoint", backend.url, "--redis", processes.url)
    for told in (arrival.text(), found.out):
        assert "?[2Jm??problem   none" in told
        assert not set(told) & {"\x1b", "\x07"}
        assert "\nproblem   none" not in told
    assert json.loads(arrival.json_line("checked"))["problems"][0]["found"].count(drawing) == 1


async def test_a_policy_that_leaves_the_lane_out(pool: Pool, backend: Simulator) -> None:
    """The lines to add are printed exactly; with a route that leads here the roles are, and nothing is to be added."""
    await pool.policies.write(ELSEWHERE)
    arrival = await arrive_at(pool, backend.url)
    assert not arrival.problems
    assert '            [roles.coder]\n            route = ["vllm/m9", "llamacpp/sim"]' in arrival.text()
    await pool.policies.write(Policy(roles={"coder": RolePolicy(route=(Candidate(lane="gpu0"),))}))
    arrival = await arrive_at(pool, backend.url)
    assert block(arrival.text())["roles"].startswith("coder")
    assert arrival.to_add == ()


async def test_what_is_printed_for_the_policy_works_as_it_is(
    processes: Farm, pool: Pool, backend: Simulator, tmp_path: Path
) -> None:
    """The commands, run in a directory with an llm.toml, send the role to the lane, and leave that file as it was."""
    await pool.policies.write(ELSEWHERE)
    said = (await check(processes, backend.url)).out
    show, apply = re.findall(r"`(tokenlane policy [^`]+)`", said)
    section, route = re.findall(r"^ {12}(\[roles\.coder\]|route = .*)$", said, re.MULTILINE)
    own = tmp_path / "llm.toml"
    own.write_text('[defaults]\nprovider = "vllm"\n')

    async def run(line: str) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        shell = await asyncio.create_subprocess_shell(line, cwd=tmp_path, env={**os.environ, "PATH": path})
        assert await shell.wait() == exits.OK

    await run(show)
    ops = tmp_path / show.rpartition(" > ")[2]
    changed, count = re.subn(rf"{re.escape(section)}\nroute = \[\n.*\n\]", f"{section}\n{route}", ops.read_text())
    assert count == 1
    ops.write_text(changed)
    await run(apply)
    assert own.read_text() == '[defaults]\nprovider = "vllm"\n'
    assert block((await check(processes, backend.url)).out)["roles"].startswith("coder")


async def test_only_models_that_are_there_are_advised(pool: Pool, backend: Simulator) -> None:
    """A route is not to lead to a model which the model server does not have."""
    await pool.policies.write(ELSEWHERE)
    assert (await arrive_at(pool, backend.url, "nope", "sim")).to_add == (
        '[roles.coder]\nroute = ["vllm/m9", "llamacpp/sim"]',
    )
    arrival = await arrive_at(pool, backend.url, "nope")
    assert (arrival.lane, arrival.to_add) == (None, ())
    assert "policy apply" not in arrival.text()


async def test_a_model_server_that_is_not_there(processes: Farm, pool: Pool) -> None:
    """A model server that does not answer is one problem, told in the block; the exit code is 1."""
    ended = await check(processes, f"http://127.0.0.1:{free_port()}")
    assert (ended.code, ended.error) == (exits.FAILED, "")
    said = block(ended.out)
    assert said["endpoint"].endswith("did not answer")
    assert "provider_down" in said["problem"]
    assert "waits" in said["problem"]
    assert await life.dump(raw(pool)) == {}


async def test_a_model_server_without_a_model(pool: Pool) -> None:
    """An Ollama that has none lacks the one that is configured."""
    async with Simulator(api="ollama", models=()) as simulator:
        settings = LaneSettings("gpu0", "ollama", simulator.url, models=("phi3",))
        arrival = await arrive(settings, pool)
    assert [problem.code for problem in arrival.problems] == [Code.MODEL_MISSING]


@pytest.mark.parametrize(
    ("api", "provider", "is_another", "fails"),
    [
        ("ollama", "openai", True, False),
        ("ollama", "vllm", True, True),
        ("llamacpp", "lmstudio", True, True),
        ("ollama", "ollama", False, False),
        ("openai", "openai", False, False),
        ("openai", "vllm", False, False),
    ],
)
async def test_a_server_that_is_not_the_providers(
    pool: Pool, api: str, provider: str, is_another: bool, fails: bool
) -> None:
    """Which server answers is told where it is another. It is a problem, however well it answers, where the provider is
    not for any server of OpenAI's dialect."""
    async with Simulator(api=api) as simulator:
        arrival = await arrive(LaneSettings("gpu0", provider, simulator.url), pool)
    assert json.loads(arrival.json_line("checked"))["server"] == api
    assert (f'set provider = "{api}"' in arrival.text()) == is_another
    assert (Code.OTHER_SERVER in [finding.code for finding in arrival.findings]) == is_another
    assert len(arrival.problems) == fails


async def test_a_key_that_is_refused(processes: Farm, pool: Pool, tmp_path: Path) -> None:
    """It is told as that, with the variable it came from, or how to name one."""
    config = tmp_path / "llm.toml"
    async with Simulator(api="vllm", api_key="right") as backend:
        config.write_text(f'[lanes.gpu0]\nprovider = "vllm"\nendpoint = "{backend.url}"\napi_key_env = "GPU_KEY"\n')
        worker = ("worker", "--check", "--lane", "gpu0", "--redis", processes.url)
        named = await run_in_thread(*worker, "--config", str(config), GPU_KEY="wrong-key")
        lacking = await run_in_thread(*worker, "--provider", "vllm", "--endpoint", backend.url)
    for ended in (named, lacking):
        assert (ended.code, ended.error) == (exits.FAILED, "")
        assert block(ended.out)["endpoint"] == f"{backend.url}, refused the key"
    assert "GPU_KEY" in block(named.out)["problem"]
    assert "wrong-key" not in named.out
    assert "export TOKENLANE_API_KEY" in block(lacking.out)["problem"]
    assert "--llm api_key_env=" in block(lacking.out)["problem"]


async def test_a_model_the_model_server_does_not_have(pool: Pool, backend: Simulator) -> None:
    """A model that is to be served and is not there is a problem, told with those that are."""
    arrival = await arrive_at(pool, backend.url, "nope")
    (problem,) = arrival.problems
    assert (problem.code, "'nope'" in problem.observed, "sim" in problem.observed) == (Code.MODEL_MISSING, True, True)


async def test_a_missing_model_is_not_announced(pool: Pool) -> None:
    """The lane offers only those of its models that the model server has."""
    async with Simulator(models=("first",)) as simulator:
        arrival = await arrive_at(pool, simulator.url, "first", "second")
    assert arrival.lane is not None
    assert arrival.lane.models == ("first",)
    (problem,) = arrival.problems
    assert (problem.code, "'second'" in problem.observed) == (Code.MODEL_MISSING, True)


async def test_a_lane_whose_models_are_all_missing_stays_closed(processes: Farm, pool: Pool) -> None:
    """The worker waits for its model, reports one problem, and opens the lane when the model server has the model."""
    port = free_port()
    serving = ("--lane", "gpu0", "--provider", "llamacpp", "--endpoint", f"http://127.0.0.1:{port}", "--model", "nope")
    async with Simulator(api="llamacpp", port=port):
        worker = await processes.tokenlane("worker", *serving)
        await worker.says("waits ")
        assert worker.out.count("problem ") == 1
        assert "'nope'" in block(worker.out)["problem"]
        (lane,) = (await take_snapshot(pool)).lanes
        assert (lane.state, lane.models) == ("down", ("nope",))
        worker.freeze()  # aiohttp leaks a connection that arrives while its server closes
    async with Simulator(api="llamacpp", port=port, models=("nope",)):
        worker.thaw()

        async def lane_is_up() -> bool:
            return [lane.state for lane in (await take_snapshot(pool)).lanes] == ["up"]

        await eventually(lane_is_up, 40)
        await worker.end()


async def test_the_report_names_the_effect_of_another_server(pool: Pool) -> None:
    """A problem that leaves the lane open says so, and names the option to correct."""
    async with Simulator(api="ollama") as simulator:
        arrival = await arrive(LaneSettings("gpu0", "vllm", simulator.url), pool)
    (problem,) = arrival.problems
    assert problem.code == Code.OTHER_SERVER
    assert "accepts requests" in problem.observed
    assert "--provider ollama" in problem.advice


async def test_pins_are_shown_with_their_file(processes: Farm, backend: Simulator, tmp_path: Path) -> None:
    """The report names each pinned model that concerns the lane and the line of the file that pins it, in text and in
    JSON."""
    file = tmp_path / "pins.toml"
    file.write_text("".join(f'[models.{name}]\ndigest = "sha256:{"0" * 64}"\n' for name in ("sim", "other")))
    told_as_text = await check(processes, backend.url, "--config", str(file))
    told_as_json = await check(processes, backend.url, "--config", str(file), "--json")
    assert block(told_as_text.out)["pins"] == f"sim, by {file}:2"
    assert json.loads(told_as_json.out)["pins"] == {"sim": f"{file}:2"}


@pytest.mark.parametrize("pinned", ["sim", "other"])
async def test_a_model_that_is_not_as_pinned(pool: Pool, pinned: str) -> None:
    """A pinned model that the lane leaves out is a problem, with both digests, for a check and for a running worker. A
    pin on a model that the server does not have is no problem."""
    async with Simulator(api="ollama") as ollama:
        settings = LaneSettings("gpu0", "ollama", endpoint=ollama.url, digests={pinned: f"sha256:{'0' * 64}"})
        arrival = await arrive(settings, pool)
        async with lane_of(pool.server.url, settings) as lane:
            running = await report_on_lane(lane, arrival.to)
    expected = [(Code.MODEL_NOT_PINNED, "sim:latest")] if pinned == "sim" else []
    for problems in (arrival.problems, running.problems):
        assert [(problem.code, problem.subject) for problem in problems] == expected
        digests = [set(re.findall(r"sha256:[0-9a-f]{64}", problem.observed)) for problem in problems]
        assert all(len(each) == 2 for each in digests)


async def test_a_name_that_is_taken(pool: Pool, backend: Simulator) -> None:
    """A lane's name that workers of another endpoint hold is a problem before it is one."""
    await life.beat(pool, "w", Announcement("gpu0", "vllm", "http://elsewhere:8000", ("m",), chats(1)))
    await pool.beats.register("w", "gpu0", life.FACTS)
    (problem,) = (await arrive_at(pool, backend.url)).problems
    assert (problem.code, "http://elsewhere:8000" in problem.observed) == (Code.LANE_TAKEN, True)


async def test_keys_that_do_not_fit(pool: Pool, backend: Simulator) -> None:
    """A pool sealed with another key, or in use without one, is a problem; an unused one stays without a key."""
    key = PoolKey.new()
    ours = KeyRing((key,))
    assert (await arrive_at(pool, backend.url, keys=ours)).problems == ()
    assert await life.dump(raw(pool)) == {}
    await life.beat(pool)
    (problem,) = (await arrive_at(pool, backend.url, keys=ours)).problems
    assert (problem.code, key.id in problem.observed) == (Code.KEY_MISMATCH, True)
    await life.raw(pool).set(f"{life.PREFIX}key", "0123456789abcdef")
    arrival = await arrive_at(pool, backend.url, keys=ours)
    assert arrival.key_id == "0123456789abcdef"
    assert "0123456789abcdef" in arrival.problems[0].observed
    await life.raw(pool).set(f"{life.PREFIX}key", key.id)
    assert (await arrive_at(pool, backend.url, keys=ours)).problems == ()
    for name, ids in (("key", f"{key.id} 0123456789abcdef"), ("retiring", "0123456789abcdef")):
        await life.raw(pool).set(f"{life.PREFIX}{name}", ids)
        (problem,) = (await arrive_at(pool, backend.url, keys=ours)).problems
        assert "0123456789abcdef" in problem.observed
        await life.raw(pool).set(f"{life.PREFIX}key", key.id)


async def test_a_prepared_key_that_is_not_here_is_a_problem(pool: Pool, backend: Simulator) -> None:
    """The next key of the pool: who checks a worker before the switch is told that it lacks it."""
    old, new = PoolKey.new(), PoolKey.new()
    await pool.key_agreement.announce(KeyRing((old,), prepared=(new,)))
    (problem,) = (await arrive_at(pool, backend.url, keys=KeyRing((old,)))).problems
    assert (problem.code, new.id in problem.observed) == (Code.KEY_MISSING, True)
    assert (await arrive_at(pool, backend.url, keys=KeyRing((old, new)))).problems == ()


async def test_a_check_of_the_built_in_model_only_looks(processes: Farm, pool: Pool, tmp_path: Path) -> None:
    """Nothing is downloaded and no server started; it tells what would be, and whether the model is there already."""
    home = tmp_path / "home"
    checking = ("worker", "--check", "--lane", "gpu0", "--provider", "builtin", "--redis", processes.url)
    ended = await run_in_thread(*checking, "--capacity", "2", TOKENLANE_HOME=str(home))
    assert (ended.code, ended.error) == (exits.OK, "")
    said = block(ended.out)
    assert list(said) == ["pool", "key", "lane", "endpoint", "models", "capacity", "roles", "checked", "unchecked"]
    assert "http" not in said["endpoint"]
    assert (said["models"].startswith("smollm2-135m-instruct "), "93 MB" in said["models"]) == (True, True)
    assert said["capacity"].startswith("2 ")
    assert not [path for path in home.rglob("*") if path.is_file()]
    file = home / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.parent.mkdir(parents=True)
    file.touch()
    ended = await run_in_thread(*checking, "--json", TOKENLANE_HOME=str(home))
    document = json.loads(ended.out)
    assert (document["models"], document["capacity"], document["problems"]) == (["smollm2-135m-instruct"], 4, [])
    ended = await run_in_thread(*checking, TOKENLANE_HOME=str(home))
    assert "93 MB" not in block(ended.out)["models"]
    assert await life.dump(raw(pool)) == {}


@pytest.mark.parametrize("checks", [True, False])
async def test_no_model_server_and_no_built_in_model(
    processes: Farm, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checks: bool
) -> None:
    """Without the extra `builtin` the command ends before it downloads anything."""
    monkeypatch.setattr("tokenlane.worker.commands.worker.search_targets", lambda configured: [])
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    home = tmp_path / "home"
    ended = await run_in_thread(
        "worker", *(["--check"] if checks else []), "--redis", processes.url, TOKENLANE_HOME=str(home)
    )
    assert (ended.code, ended.out) == (exits.USAGE, "")
    assert "--provider and --endpoint" in ended.error
    assert not [path for path in home.rglob("*") if path.is_file()]
    assert await life.dump(raw(pool)) == {}


async def test_a_check_that_would_serve_only_the_toy(
    processes: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so in a remark, unless the built-in model was asked for."""
    monkeypatch.setattr("tokenlane.worker.commands.worker.search_targets", lambda configured: [])
    checking = ("worker", "--check", "--json", "--redis", processes.url)
    unnamed = await run_in_thread(*checking, TOKENLANE_HOME=str(tmp_path))
    named = await run_in_thread(*checking, "--provider", "builtin", TOKENLANE_HOME=str(tmp_path))
    assert (unnamed.code, named.code) == (exits.OK, exits.OK)
    assert [remark["code"] for remark in json.loads(unnamed.out)["remarks"]] == [Code.ONLY_TOY.value]
    assert json.loads(named.out)["remarks"] == []


async def test_a_worker_that_waits_says_what_a_check_says(processes: Farm, pool: Pool) -> None:
    """Its block has the problem and the endpoint, without the password, and that it waits; the lane is announced as
    down."""
    at = f"127.0.0.1:{free_port()}"
    serving = ("worker", "--lane", "gpu0", "--provider", "ollama", "--endpoint", f"http://user:hunter2@{at}")
    worker = await processes.tokenlane(*serving)
    await worker.says("waits ")
    said = block(worker.out)
    assert list(said) == ["pool", "key", "lane", "endpoint", "models", "capacity", "roles", "problem", "waits"]
    assert said["endpoint"] == f"http://user:***@{at}, did not answer"
    assert "cannot be reached" in said["problem"]
    (lane,) = (await take_snapshot(pool)).lanes
    assert (lane.state, lane.models, bool(lane.why)) == ("down", (), True)
    assert (await worker.end()).code == exits.OK
    assert "hunter2" not in worker.out + worker.error


@pytest.mark.parametrize("running", [0, 1, 2])
async def test_a_worker_says_that_it_serves_and_drains(processes: Farm, backend: Simulator, running: int) -> None:
    """Its block ends with how to stop it, and the drain begins with the number of requests that run."""
    serving = ("--lane", "gpu0", "--provider", "llamacpp", "--endpoint", backend.url, "--drain", "7")
    worker = await processes.tokenlane("worker", *serving)
    await worker.says("serves ")
    last = worker.out.splitlines()[-1]
    assert (last[:10].strip(), "Ctrl-C" in last, "7 s" in last) == ("serves", True, True)
    held: dict[str, JsonValue] = {"simulate": FaultScript(pieces=("a", "b"), hold_after=1).model_dump(mode="json")}
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(processes.url, pool=processes.pool))
        for _ in range(running):
            stream = await stack.enter_async_context(client.chat("hello", role="planner", extra=held))
            assert (await anext(stream)).text == "a"
        worker.process.send_signal(signal.SIGINT)
        await eventually(lambda: told_or_ended(worker, "draining "))
        backend.release()
        ended = await worker.ended()
    (line,) = (line for line in ended.out.splitlines() if line.startswith("draining "))
    assert ended.out.splitlines()[-1].startswith("stopped ")
    count, noun, verb = line.partition(";")[0].split()[1:]
    assert (count, noun, verb) == (str(running), *(("request", "runs") if running == 1 else ("requests", "run")))
    assert ended.code == exits.OK


async def told_or_ended(worker: Child, what: str) -> bool:
    return what in worker.out or not worker.running


async def test_a_worker_that_cannot_start_says_what_a_check_says(processes: Farm, pool: Pool) -> None:
    """Where waiting is of no use its block has the problem, and its error the endpoint."""
    async with Simulator(api="vllm", api_key="right") as backend:
        serving = ("worker", "--lane", "gpu0", "--provider", "vllm", "--endpoint", backend.url)
        ended = await (await processes.tokenlane(*serving)).ended()
        assert ended.code == exits.FAILED
        assert "api_key_env" in block(ended.out)["problem"]
        assert backend.url in ended.error
        assert await life.dump(raw(pool)) == {}
        ended = await (await processes.tokenlane(*serving, "--json")).ended()
    document, failure = map(json.loads, ended.out.splitlines())
    assert (document["event"], len(document["problems"])) == ("failed", 1)
    assert (failure["error"]["code"], failure["error"]["lane"]) == ("unauthorized", "gpu0")


async def test_a_model_servers_port_that_another_program_holds(processes: Farm, redis_port: int) -> None:
    """It is waited for like one that is not there."""
    at = f"http://127.0.0.1:{redis_port}"
    worker = await processes.tokenlane("worker", "--lane", "gpu0", "--provider", "ollama", "--endpoint", at)
    await worker.says("waits ")
    assert at in block(worker.out)["endpoint"]


async def test_no_pool(tmp_path: Path, backend: Simulator) -> None:
    """Without a pool there is nothing to check: 2, and the place."""
    url = f"redis://127.0.0.1:{free_port()}"
    async with farm(tmp_path, url) as opened:
        ended = await check(opened, backend.url)
    assert (ended.code, ended.out, url in ended.error) == (exits.USAGE, "", True)


async def test_a_worker_that_starts_says_the_same(processes: Farm, pool: Pool, backend: Simulator) -> None:
    """A worker's first line in JSON has all of the block, and the pool has the worker's facts."""
    await pool.policies.write(ELSEWHERE)
    child = await processes.worker("gpu0", backend)
    document = json.loads(child.out.splitlines()[0])
    assert (document["event"], document["worker"], document["capacity_source"]) == (
        "ready",
        child.name,
        "auto for openai",
    )
    assert (document["revision"], document["roles_left_out"], document["problems"]) == (1, ["coder"], [])
    assert document["to_add"] == ['[roles.coder]\nroute = ["vllm/m9", "openai/sim"]']
    (lane,) = (await take_snapshot(pool)).lanes
    (worker,) = lane.workers
    assert worker.name == child.name
    assert {"tokenlane", "python", "arq", "redis"} <= worker.versions.keys()
    assert worker.host
