"""The units in config/systemd work: the commands of docs/deploy-systemd.md, as processes of this host.

Only places differ: the page's paths lie in a folder of the test, and the pool and the model server are the test's.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import sys
from asyncio.subprocess import DEVNULL
from pathlib import Path

import pytest
from tests.child_output import shown_on_failure
from tests.documents import commands_of
from tests.integration.farm import Child
from tests.integration.servers import free_port
from tests.repository import ROOT
from tests.systemd import Unit

from tokenlane.benches.simulator import Simulator
from tokenlane.producer import Client

READY = {
    "worker": "serves",
    "router": "until Ctrl-C",
    "exporter": "until Ctrl-C",
    "dashboard": "page",
    "serve": "gateway",
}
NOT_HERE = ("useradd", "python3", "/opt/tokenlane/bin/pip", "journalctl")
"""What makes a user and an environment, as `make install` does for this one, and what shows systemd's own journal."""


class Host:
    """A host whose root is a folder."""

    def __init__(self, root: Path, redis_url: str, endpoint: str) -> None:
        self.services: dict[str, Child] = {}
        self.key = ""
        self._root = root
        urls = {f"redis://{user}:PASSWORD@gpu-hub:6379": redis_url for user in ("worker", "ops", "router", "agent")}
        self._values = {**urls, "http://localhost:8000": endpoint}
        for folder in ("opt/tokenlane/bin", "etc/systemd/system", "var/lib/tokenlane"):
            (root / folder).mkdir(parents=True)
        (root / "opt/tokenlane/bin/tokenlane").symlink_to(Path(sys.executable).parent / "tokenlane")

    async def carry_out(self, command: str) -> None:
        """Do the command of the page, and change what the page asks for in the files that it installs."""
        match shlex.split(command):
            case ["tokenlane", "key", *arguments]:
                self.key = (await self._run("key", "tokenlane", "key", *arguments)).strip()
                self._values["tlk1-KEY"] = self.key
            case ["sudo", program, *_] if program in NOT_HERE:
                pass
            case ["sudo", "install", "-d", folder]:
                self._path(folder).mkdir()
            case ["sudo", "install", "-m", mode, *sources, target]:
                for source in sources:
                    self._install(ROOT / source, self._path(target), int(mode, 8))
            case ["sudo", "systemctl", "daemon-reload"]:
                assert list(self._path("/etc/systemd/system").glob("*.service"))
            case ["sudo", "systemctl", "enable", "--now", name]:
                await self._start(name)
            case ["sudo", "systemctl", "stop", name]:
                await self.stop(name)
            case _:
                raise AssertionError(f"nothing is known of `{command}`")

    async def stop(self, name: str) -> None:
        """Stop a service, which must end well."""
        assert (await self.services.pop(name).end()).code == 0, name

    def say(self) -> str:
        """What the services have written."""
        return "\n".join(f"--- {name}\n{child.out}{child.error}" for name, child in self.services.items())

    async def close(self) -> None:
        """Kill what still runs."""
        await asyncio.gather(*(child.kill() for child in self.services.values()))

    def _install(self, source: Path, target: Path, mode: int) -> None:
        placed = Path(shutil.copy(source, target))
        placed.chmod(mode)
        text = placed.read_text(encoding="utf-8")
        text = re.sub(r"127\.0\.0\.1:\d+", lambda _: f"127.0.0.1:{free_port()}", text)
        for name, value in self._values.items():
            text = text.replace(name, value)
        placed.write_text(text, encoding="utf-8")

    async def _start(self, name: str) -> None:
        """Start a service as its unit says, and wait until it is ready."""
        template, at, instance = name.partition("@")
        unit = Unit(self._path(f"/etc/systemd/system/{template}{at}.service"))
        file = self._path(unit.value("EnvironmentFile")).read_text(encoding="utf-8")
        lines = [*unit.values("Environment"), *(line for line in file.splitlines() if not line.startswith("#"))]
        variables = {key: self._placed(value) for key, _, value in (line.partition("=") for line in lines)}
        command = [self._placed(word) for word in unit.command(instance)]
        self.services[name] = await self._spawn(name, command, variables, self._path(unit.value("WorkingDirectory")))
        await self.services[name].says(READY[command[1]])

    async def _run(self, name: str, *command: str) -> str:
        ended = await (await self._spawn(name, list(command), {}, self._root)).ended()
        assert ended.code == 0, f"{command}\n{ended.out}{ended.error}"
        return ended.out

    async def _spawn(self, name: str, command: list[str], variables: dict[str, str], folder: Path) -> Child:
        out, error = (self._root / f"{name}.{kind}" for kind in ("out", "err"))
        with out.open("wb") as out_file, error.open("wb") as error_file:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=folder,
                env={"PATH": f"{self._root}/opt/tokenlane/bin:/usr/bin:/bin", **variables},
                stdin=DEVNULL,
                stdout=out_file,
                stderr=error_file,
            )
        return Child(process, out, error, name)

    def _path(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _placed(self, text: str) -> str:
        return re.sub(r"^/(opt|etc|var)/", rf"{self._root}/\1/", text)


@pytest.mark.deployed
@pytest.mark.timeout(120)
async def test_the_commands_of_the_page_work(tmp_path: Path, redis_url: str) -> None:
    """All commands of docs/deploy-systemd.md; the worker that they start answers, and every service ends with 0."""
    commands = commands_of((ROOT / "docs" / "deploy-systemd.md").read_text(encoding="utf-8"))
    async with Simulator(api="vllm", models=["m"]) as backend:
        host = Host(tmp_path, redis_url, backend.url)
        with shown_on_failure(host.say):
            try:
                for command in commands:
                    if command == "sudo systemctl stop tokenlane-worker@gpu0":
                        async with Client(redis_url, key=host.key) as client:
                            assert (await client.complete("hello", role="planner")).text
                    await host.carry_out(command)
                for name in list(host.services):
                    await host.stop(name)
            finally:
                await host.close()
