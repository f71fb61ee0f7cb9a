"""docker-compose.yml works: docs/deploy.md's commands, with the services of the file as processes of this host."""

from __future__ import annotations

import re
import shlex

import httpx
import pytest
from tests.compose import new_settings, read_services
from tests.documents import commands_of
from tests.repository import ROOT

from tokenlane.benches.simulator import Simulator

from .containers import Containers, containers, drops_rights, runs_here

PROFILES = {"core", "observe"}
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")


async def carry_out(command: str, project: Containers) -> None:
    """Do on this host what the command does with Docker."""
    words = shlex.split(command)
    assert words[:2] == ["docker", "compose"], command
    match words[2:]:
        case ["up", *options]:
            scaled = dict(option.split("=") for option in options if "=" in option)
            for service in project.services.values():
                if service.profiles & PROFILES and runs_here(service):
                    await project.up(service, replicas=int(scaled.get(service.name, 0)) or None)
        case ["run", "--rm", name, *arguments]:
            await run_in_a_container(project, name, *arguments)
        case ["exec", "ollama", "ollama", *_]:  # the simulator takes its place
            pass
        case ["exec", name, *inside]:
            ended = await project.exec(project.services[name], *inside)
            assert (ended.code, ended.out) == (0, "OK\n"), f"{command}\n{ended.out}{ended.error}"
        case ["ps" | "logs", *names]:
            assert {"worker", *names} <= project.running.keys()
        case ["down"]:
            for name, endings in (await project.down()).items():
                assert [ended.code for ended in endings] == [0] * len(endings), name
        case _:
            pytest.fail(f"nothing is known of `{command}`")


async def run_in_a_container(project: Containers, name: str, *arguments: str) -> None:
    """Run a command line, which must succeed and print something."""
    ended = await project.run(project.services[name], *arguments)
    assert ended.code == 0, f"{arguments}\n{ended.error}"
    assert ended.out.strip()
    if arguments[:2] == ("keys", "add"):
        await ask_over_http(project, ended.out.strip())


async def ask_over_http(project: Containers, key: str) -> None:
    """The gateway answers who has the key, and nobody else."""
    (gateway,) = project.running["gateway"]
    (url,) = re.findall(r"http://\S+/v1", gateway.out)
    question = {"model": "role:planner", "messages": [{"role": "user", "content": "hi"}]}
    async with httpx.AsyncClient(base_url=url, timeout=30) as web:
        refused = await web.post("/chat/completions", json=question)
        answered = await web.post("/chat/completions", json=question, headers={"x-api-key": key})
    assert (refused.status_code, answered.status_code) == (401, 200), answered.text
    assert answered.json()["choices"][0]["message"]["content"]


@pytest.mark.deployed
@pytest.mark.timeout(120)
async def test_the_commands_of_the_page_work() -> None:
    """All commands of docs/deploy.md, in their order, and before the last what docs/runbook.md does in a container;
    every process ends with 0 when it is stopped."""
    first, *commands = commands_of((ROOT / "docs" / "deploy.md").read_text(encoding="utf-8"))
    inside = [command for command in commands_of(RUNBOOK) if command.startswith("docker compose exec ")]
    assert len(inside) == 1
    commands[-1:-1] = inside
    assert first == "sh config/new_env.sh"
    services = read_services(new_settings())
    async with Simulator(api="ollama", models=["qwen3:0.6b"]) as ollama:
        async with containers(services, {"http://ollama:11434": ollama.url}) as project:
            for command in commands:
                await carry_out(command, project)
                if drops_rights():
                    assert project.users() == {name: {services[name].user} for name in project.running}
            assert project.running == {}
