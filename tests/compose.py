"""docker-compose.yml as tests use it: the file with the variables of .env in place, and its services as processes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml
from tests.repository import ROOT

__all__ = ["FILE", "IMAGE", "Mount", "Service", "example_settings", "new_settings", "read_services"]

FILE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "worker" / "Dockerfile"
_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::([-?])([^}]*))?\})")


class Mount(NamedTuple):
    """A path in a container; `source` is a path of the repository, the name of a volume, or empty for a tmpfs."""

    target: str
    source: str
    read_only: bool


@dataclass(frozen=True)
class Service:
    """One service of the file, as the specification has it."""

    name: str
    entry: Mapping[str, Any]

    @property
    def is_ours(self) -> bool:
        """Whether the service runs the image that worker/Dockerfile builds."""
        return "build" in self.entry

    @property
    def profiles(self) -> set[str]:
        return set(self.entry["profiles"])

    @property
    def user(self) -> int:
        return int(self.entry["user"].partition(":")[0])

    @property
    def group(self) -> int:
        return int(self.entry["user"].partition(":")[2])

    @property
    def command(self) -> list[str]:
        """What the container runs. Third-party images are expected to run their command as it is."""
        command = list(self.entry.get("command", []))
        return [*IMAGE.entrypoint, *command] if self.is_ours else command

    @property
    def environment(self) -> dict[str, str]:
        """The container's variables, including those of our image."""
        own = {name: str(value) for name, value in self.entry.get("environment", {}).items()}
        return {**IMAGE.environment, **own} if self.is_ours else own

    @property
    def healthcheck(self) -> list[str] | None:
        """The command whose success makes the container healthy; None if there is none."""
        own = self.entry.get("healthcheck", {})
        test = own.get("test", IMAGE.healthcheck if self.is_ours else None)
        if test is None or own.get("disable"):
            return None
        kind, *words = test
        return ["sh", "-c", *words] if kind == "CMD-SHELL" else words

    @property
    def mounts(self) -> list[Mount]:
        volumes = [volume.split(":") for volume in self.entry.get("volumes", [])]
        mounts = [Mount(target, source, options == ["ro"]) for source, target, *options in volumes]
        return [*mounts, *(Mount(entry.partition(":")[0], "", False) for entry in self.entry.get("tmpfs", []))]


class _Image:
    """What worker/Dockerfile says about how its image runs."""

    def __init__(self) -> None:
        self.text = DOCKERFILE.read_text(encoding="utf-8")
        self.stages = re.split(r"^FROM .*\n", self.text, flags=re.MULTILINE)[1:]

    @property
    def entrypoint(self) -> list[str]:
        return self._list("ENTRYPOINT") or []

    @property
    def healthcheck(self) -> list[str] | None:
        words = self._list(r"HEALTHCHECK [^\[]*CMD")
        return None if words is None else ["CMD", *words]

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the last stage, apart from PATH."""
        joined = self.stages[-1].replace("\\\n", " ")
        words = [word for line in re.findall(r"^ENV (.*)$", joined, re.MULTILINE) for word in shlex.split(line)]
        return {name: value for name, _, value in (word.partition("=") for word in words) if name != "PATH"}

    def _list(self, instruction: str) -> list[str] | None:
        found = re.search(rf"^{instruction} (\[.*\])$", self.stages[-1].replace("\\\n", " "), re.MULTILINE)
        words: list[str] | None = json.loads(found[1]) if found else None
        return words


IMAGE = _Image()


def example_settings() -> dict[str, str]:
    """The variables of .env.example, of which the secrets are empty."""
    return _variables((ROOT / ".env.example").read_text(encoding="utf-8"))


def new_settings() -> dict[str, str]:
    """The variables of a new .env."""
    with TemporaryDirectory() as directory:
        file = Path(directory, ".env")
        subprocess.run(["sh", ROOT / "config" / "new_env.sh", file], check=True)
        return _variables(file.read_text(encoding="utf-8"))


def read_services(settings: Mapping[str, str]) -> dict[str, Service]:
    """The services of the file, by name.

    Raises:
        KeyError: a variable that the file requires is missing or empty.
    """
    document = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {name: Service(name, _filled_in(entry, settings)) for name, entry in document["services"].items()}


def _variables(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def _filled_in(value: Any, settings: Mapping[str, str]) -> Any:
    """The value with the variables in its texts in place, as Compose does it."""

    def replaced(found: re.Match[str]) -> str:
        dollar, name, kind, rest = found.groups()
        if dollar:
            return "$"
        if settings.get(name):
            return settings[name]
        if kind == "-":
            return str(rest)
        raise KeyError(f"{name}: {rest}")

    if isinstance(value, str):
        return _VARIABLE.sub(replaced, value)
    if isinstance(value, dict):
        return {key: _filled_in(item, settings) for key, item in value.items()}
    return [_filled_in(item, settings) for item in value] if isinstance(value, list) else value


def variables_in(text: str) -> Iterator[str]:
    """The names of the variables that a compose file takes from .env."""
    yield from (found[2] for found in _VARIABLE.finditer(text) if found[2])
