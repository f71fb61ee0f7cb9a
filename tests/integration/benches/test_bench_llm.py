"""`tokenlane bench llm` on simulated servers of each kind, on servers that fail, and as people call it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.integration.servers import free_port

from tokenlane.benches.commands import bench as commands
from tokenlane.benches.measure.llm import find
from tokenlane.benches.measure.llm.find import find_subjects
from tokenlane.benches.measure.llm.measurement import TOKENS, LlmPlan, measure
from tokenlane.benches.measure.llm.report import LlmReport, Measured
from tokenlane.benches.simulator import Fault, Simulator
from tokenlane.config import exit_codes as exits
from tokenlane.config.exit_codes import ConfigError, UserError
from tokenlane.config.settings.values import LaneSettings
from tokenlane.worker.discovery.targets import Target, usual_targets

BENCH = (sys.executable, "-m", "tokenlane.config", "bench", "llm")
PLAN = LlmPlan(runs=2, warm_up=1, seed=3)


def target(url: str, provider: str | None = None, *models: str) -> Target:
    return Target(LaneSettings("lane", provider or "openai", url, models), provider)


async def measured(*targets: Target, models: Sequence[str] = ()) -> list[Measured]:
    subjects = await find_subjects(targets, models, print)
    return (await measure(subjects, PLAN, print)).measured


def chats(simulator: Simulator) -> list[dict[str, Any]]:
    """The requests that were measured: they alone have a seed."""
    return [json.loads(each.body) for each in simulator.log if b'"seed"' in each.body]


async def test_each_kind_of_server_is_measured() -> None:
    """All get the same prompts, each prompt once, and those that can are made to generate all tokens."""
    kinds = ("vllm", "ollama", "llamacpp", "tgi", "lmstudio", "openai")
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(Simulator(api=kind, tokens=TOKENS)) for kind in kinds]
        found = await measured(*(target(server.url) for server in servers))
        asked = [chats(server) for server in servers]
    assert [(each.provider, each.problem, each.is_forced) for each in found] == [
        (kind, "", kind in ("vllm", "llamacpp")) for kind in kinds
    ]
    for each, requests in zip(found, asked, strict=True):
        assert each.model.startswith("sim")
        assert each.memory_mb is not None
        assert [(run.tokens, run.is_counted) for run in each.runs] == [(TOKENS, True)] * 2
        assert all(0 < run.first_token_ms < run.total_ms and run.tokens_per_s > 0 for run in each.runs)
        assert len(requests) == 3
        assert [request["messages"] for request in requests] == [request["messages"] for request in asked[0]]
    prompts = [request["messages"][0]["content"] for request in asked[0]]
    assert len({prompt.split()[0] for prompt in prompts}) == 3
    assert prompts == PLAN.prompts() != LlmPlan(2, 1, seed=4).prompts()
    assert all(request["ignore_eos"] and request["min_tokens"] == TOKENS for request in asked[0])


async def test_shorter_answers_are_measured_as_they_come() -> None:
    """A server that cannot be made to go on; and one that counts no tokens."""
    async with Simulator(api="ollama", tokens=5) as short, Simulator(api="openai", tokens=5) as silent:
        silent.faults.extend([Fault(usage=False)] * 3)
        found = await measured(target(short.url), target(silent.url))
    assert [[(run.tokens, run.is_counted) for run in each.runs] for each in found] == [
        [(5, True)] * 2,
        [(5, False)] * 2,
    ]


async def test_servers_that_fail_have_rows() -> None:
    """What refuses, breaks off, talks nonsense, is silent or not there is reported; the next server is measured."""
    nobody = f"http://127.0.0.1:{free_port()}"
    faults = (
        Fault(status=503, times=0),
        Fault(request=3, cut_after=5),
        Fault(malformed_after=2, times=0),
        Fault(tokens=0, times=0),
    )
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(Simulator(api="llamacpp", faults=given, tokens=TOKENS))
            for given in (*([fault] for fault in faults), ())
        ]
        works = servers[-1].url
        targets = [target(url, "llamacpp", "sim") for url in (nobody, *(server.url for server in servers))]
        targets += [target(works, "ollama"), target(works, None, "x")]
        found = await measured(*targets)
    assert [each.endpoint for each in found] == [each.lane.endpoint for each in targets]
    assert [bool(each.problem) for each in found] == [True] * 5 + [False] + [True] * 2
    assert [len(each.runs) for each in found] == [0, 0, 1, 0, 0, 2, 0, 0]
    codes = [each.problem.split(":")[0] for each in found[1:5]]
    assert codes == ["provider_down", "provider_down", "unreadable_answer", "unreadable_answer"]
    assert "llama.cpp" in found[6].problem  # configured as another kind
    assert found[7].model == "x"


async def test_an_answer_that_takes_too_long_ends_the_runs_of_its_model() -> None:
    """The runs before count, and the reason stands behind them. A lane's own limit is another reason."""
    held = Fault(request=2, hold_after=5)
    async with AsyncExitStack() as stack:
        servers = [Simulator(api="llamacpp", faults=[held], tokens=TOKENS) for _ in range(2)]
        urls = [(await stack.enter_async_context(server)).url for server in servers]
        first, second = await find_subjects([target(url, "llamacpp", "sim") for url in urls], (), print)
        hasty = replace(second, lane=replace(second.lane, token_timeout_s=0.2))
        report = await measure([first], LlmPlan(runs=3, warm_up=0, limit_s=2), print)
        (stalled,) = (await measure([hasty], LlmPlan(runs=3, warm_up=0), print)).measured
    (given_up,) = report.measured
    assert report.limit_s == 2
    for each, names_option in ((given_up, True), (stalled, False)):
        assert (len(each.runs), each.problem.split(":")[0]) == (1, "timeout")
        assert ("--limit" in each.problem) is names_option


async def test_only_servers_that_work_count_on_usual_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search finds no server without the wanted model, of an unknown kind, or where nobody listens."""
    said: list[str] = []
    async with Simulator(api="vllm", models=["a", "b"]) as works, Simulator(api="openai") as unknown:
        usual = [target(url) for url in (works.url, unknown.url, f"http://127.0.0.1:{free_port()}")]
        monkeypatch.setattr(find, "usual_targets", lambda: usual)
        subjects = await find_subjects(usual, (), said.append)
        both = await find_subjects(usual, ("b", "a", "c"), said.append)
    assert [(each.provider, each.model) for each in subjects] == [("vllm", "a")]
    assert [each.model for each in both] == ["b", "a"]
    assert not any(each.problem for each in both)
    assert sum(unknown.url in line for line in said) == 2
    assert sum(works.url in line for line in said) == 1  # which lacks `c`


async def test_the_command_measures_what_is_configured(tmp_path: Path) -> None:
    """The lanes of llm.toml and their models; the document, the plot, and the exit code if nothing answered."""
    async with Simulator(api="llamacpp", tokens=TOKENS, models=["phi"]) as server:
        lanes = {"gpu0": ("llamacpp", server.url), "gpu1": ("vllm", f"http://127.0.0.1:{free_port()}")}
        settings = "".join(
            f'[lanes.{name}]\nprovider = "{provider}"\nendpoint = "{url}"\nmodels = ["phi"]\n'
            for name, (provider, url) in lanes.items()
        )
        (tmp_path / "llm.toml").write_text(settings)
        named = [word for _, url in lanes.values() for word in ("--endpoint", url)]  # other servers may run here
        options = (*named, "--json", "--runs", "2", "--warm-up", "0", "--seed", "5", "--svg", str(tmp_path / "llm.svg"))
        code, out, progress = await bench(tmp_path, *options)
        dead, table, _ = await bench(tmp_path, "--endpoint", lanes["gpu1"][1])
    report = LlmReport.model_validate_json(out)
    assert (code, report.runs, report.warm_up, report.seed, report.tokens) == (exits.OK, 2, 0, 5, TOKENS)
    assert [(len(each.runs), each.model, bool(each.problem)) for each in report.measured] == [
        (2, "phi", False),
        (0, "phi", True),
    ]
    assert json.loads(out)["measured"][0]["total_ms"]["p99"] > 0
    assert "run 2 of 2" in progress
    assert ElementTree.parse(tmp_path / "llm.svg").findall(".//{*}rect[@class='bar']")
    assert (dead, table.count("\n| vllm | phi | - |")) == (exits.FAILED, 1)


@pytest.mark.parametrize("endpoint", ["nonsense", "ftp://gpu:1", "http://gpu:0", "http://user:hunter2@:1"])
def test_what_is_no_url_is_wrong_usage(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured. The error says neither a password nor the name of a lane, which nobody gave."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        commands.llm(endpoint=["http://127.0.0.1:1", endpoint])
    assert raised.value.exit_code == exits.USAGE
    assert "--endpoint" in str(raised.value)
    assert not any(word in str(raised.value) for word in ("hunter2", "'bench'", "'probe'"))


def test_a_named_server_keeps_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key and its models; a usual port that is named counts as named. The built-in model needs no endpoint."""
    (tmp_path / "llm.toml").write_text(
        '[lanes.gpu0]\nprovider = "vllm"\nendpoint = "http://gpu:1"\nmodels = ["a"]\napi_key_env = "GPU_KEY"\n'
        '[lanes.toy]\nprovider = "builtin"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPU_KEY", "secret")
    known, other = commands._targets(["http://gpu:1", "http://127.0.0.1:8000"])
    assert (known.provider, known.lane.models, known.lane.api_key_from) == ("vllm", ("a",), "GPU_KEY")
    assert other not in usual_targets()
    assert next(target.lane.name for target in commands._targets([])) == "gpu0"
    assert [lane.name for lane in commands._builtin_lanes([], asked=False)] == ["toy"]
    assert commands._builtin_lanes(["http://gpu:1"], asked=False) == []
    assert [lane.provider for lane in commands._builtin_lanes(["http://gpu:1"], asked=True)] == ["builtin"]


def test_without_any_server_there_is_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command fails, and says what else can be measured."""
    monkeypatch.setattr(commands, "_targets", lambda endpoints: [])
    with pytest.raises(UserError, match="--builtin"):
        commands.llm(endpoint=["http://127.0.0.1:1"])


async def bench(home: Path, *options: str) -> tuple[int | None, str, str]:
    """The exit code and the outputs of the command in a folder."""
    process = await asyncio.create_subprocess_exec(
        *BENCH, *options, stdout=PIPE, stderr=PIPE, cwd=home, env={**os.environ, "TOKENLANE_HOME": str(home)}
    )
    try:
        out, error = await process.communicate()
    finally:
        if process.returncode is None:  # the test ran out of time
            process.kill()
            await process.wait()
    assert b"Traceback" not in error, error.decode()
    return process.returncode, out.decode(), error.decode()
