"""docker-compose.yml and worker/Dockerfile are valid, hardened and complete; `test_compose.py` runs them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.compose import DOCKERFILE, FILE, IMAGE, Service, example_settings, new_settings, read_services, variables_in
from tests.repository import ROOT
from tests.verbs import every_verb

from tokenlane.config.host.pool_key_files import PoolKey

SERVICES = read_services(new_settings())
SECRETS = {name for name in example_settings() if name.endswith(("_KEY", "_PASSWORD", "_TOKEN"))}
BIN = Path(sys.executable).parent
FOR_ONE_COMMAND = {"agent", "ops"}
"""Services that `docker compose run` starts for one command."""
WITHOUT_A_PROGRAM = {"collector"}
"""Services whose images contain no program that could check the service."""


def run(*command: str | Path) -> tuple[int, str]:
    """The exit code of a command, and what it wrote."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stdout + ended.stderr


def test_the_file_is_valid() -> None:
    """The schema of the compose specification accepts it."""
    code, output = run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", FILE)
    assert code == 0, output


def test_the_dockerfile_is_valid() -> None:
    """hadolint has no remark."""
    assert run(BIN / "hadolint", DOCKERFILE) == (0, "")


def test_each_variable_is_in_the_example() -> None:
    """`.env.example` has each variable that the file takes, and no other; those that the file requires are secrets."""
    text = FILE.read_text(encoding="utf-8")
    assert {*variables_in(text), "COMPOSE_PROFILES"} == example_settings().keys()
    required = set(re.findall(r"\$\{(\w+):\?", text))
    assert required == SECRETS


def test_each_secret_is_required() -> None:
    """Without .env nothing starts with a secret that everybody knows."""
    with pytest.raises(KeyError):
        read_services(example_settings())


def test_new_secrets_are_random_and_usable() -> None:
    """The pool's key is one, and passwords need no quoting in a URL. All other lines are those of the example."""
    first, second = new_settings(), new_settings()
    assert {name for name in first if first[name] != second[name]} == SECRETS
    assert PoolKey.parse(first["TOKENLANE_POOL_KEY"]) != PoolKey.parse(second["TOKENLANE_POOL_KEY"])
    passwords = [first[name] for name in SECRETS - {"TOKENLANE_POOL_KEY"}]
    assert all(re.fullmatch(r"\w{32,}", password) for password in passwords)


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())
class TestService:
    """What holds for each service."""

    def test_has_an_exact_version(self, service: Service) -> None:
        """An image of another day would be another program."""
        assert re.fullmatch(r"[\w/.-]+:v?\d+\.\d+\.\d+[\w.-]*", service.entry["image"])

    def test_is_in_a_known_profile(self, service: Service) -> None:
        """Each belongs to one, so that .env alone decides what starts."""
        assert service.profiles
        assert service.profiles <= {"core", "gpu", "observe", "tools"}

    def test_has_few_rights(self, service: Service) -> None:
        """No root, no capabilities, and no writing to its image."""
        assert service.user > 0
        assert service.group > 0
        assert service.entry["cap_drop"] == ["ALL"]
        assert service.entry["security_opt"] == ["no-new-privileges:true"]
        assert service.entry["read_only"] is True

    def test_has_limits(self, service: Service) -> None:
        """Of memory and processes, so that none takes down the others."""
        limits = service.entry["deploy"]["resources"]["limits"]
        assert {"memory", "pids"} <= limits.keys()

    def test_says_how_it_is(self, service: Service) -> None:
        """All others have a health check."""
        assert (service.healthcheck is None) == (service.name in FOR_ONE_COMMAND | WITHOUT_A_PROGRAM)

    def test_listens_on_loopback_alone(self, service: Service) -> None:
        """No other machine reaches a published port."""
        assert all(port.startswith("127.0.0.1:") for port in service.entry.get("ports", []))

    def test_mounts_what_exists(self, service: Service) -> None:
        """Files of the repository, read-only, and volumes that the file declares."""
        volumes = yaml.safe_load(FILE.read_text(encoding="utf-8"))["volumes"]
        for mount in service.mounts:
            if mount.source.startswith("."):
                assert (ROOT / mount.source).exists()
                assert mount.read_only
            elif mount.source:
                assert mount.source in volumes

    def test_depends_on_services_of_its_profiles(self, service: Service) -> None:
        """Compose refuses a service that depends on one that no active profile has."""
        for name in service.entry.get("depends_on", {}):
            assert service.profiles - {"tools"} <= SERVICES[name].profiles


def test_a_stop_leaves_time_to_drain() -> None:
    """Docker kills a worker later than the worker itself ends its requests."""
    worker = SERVICES["worker"]
    (drain,) = [word.removeprefix("--drain=") for word in worker.command if word.startswith("--drain=")]
    assert int(worker.entry["stop_grace_period"].removesuffix("s")) > int(drain)


def test_valkey_has_memory_for_a_copy() -> None:
    """Rewriting the append-only file may need as much again as the data."""
    config = (ROOT / "config" / "valkey.conf").read_text(encoding="utf-8")
    found = re.search(r"^maxmemory (\d+)mb$", config, re.MULTILINE)
    assert found is not None
    memory = SERVICES["valkey"].entry["deploy"]["resources"]["limits"]["memory"]
    assert int(memory.removesuffix("G")) * 1024 >= 2 * int(found[1])


def test_only_services_that_need_the_key_have_it() -> None:
    """What opens requests or answers, and what sends lanes commands to load models."""
    with_key = {name for name, service in SERVICES.items() if "TOKENLANE_POOL_KEY" in service.environment}
    assert with_key == {"worker", "agent", "ops", "dashboard", "gateway"}


class TestImage:
    """What worker/Dockerfile builds."""

    def test_has_an_exact_base(self) -> None:
        """One base, by tag and digest."""
        bases = re.findall(r"^FROM (\S+)", IMAGE.text, re.MULTILINE)
        assert [base for base in bases if base != "base"] == bases[:1]
        assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", bases[0])

    def test_runs_as_the_user_of_the_services(self) -> None:
        """In Docker and Kubernetes alike."""
        (user,) = re.findall(r"^USER (\S+)$", IMAGE.stages[-1], re.MULTILINE)
        assert {service.entry["user"] for service in SERVICES.values() if service.is_ours} == {user}

    def test_installs_the_tested_versions(self) -> None:
        """All packages of the image are pinned, with the hashes that `make lock` has for all extras."""
        entry = re.compile(r"^\S+==.*?(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
        mine, all_extras = (
            set(entry.findall((ROOT / lock).read_text(encoding="utf-8")))
            for lock in ("worker/requirements.lock", "requirements.lock")
        )
        assert mine < all_extras
        assert {"arq", "opentelemetry-sdk"} <= {text.partition("==")[0] for text in mine}
        assert "install --no-cache-dir --require-hashes --requirement requirements.lock" in IMAGE.stages[1]

    def test_is_built_from_what_is_sent(self, tmp_path: Path) -> None:
        """What .dockerignore lets through is enough to build the wheel, and contains no secret."""
        lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        sent = [line.removeprefix("!") for line in lines if line.startswith("!")]
        assert "*" in lines
        assert not any(name.startswith(".") for name in sent)
        context = tmp_path / "context"
        context.mkdir()
        for name in sent:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, context / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, context)
        code, output = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, context)
        assert code == 0, output
        assert list(tmp_path.glob("tokenlane-*.whl"))


def test_the_pages_name_services_that_exist() -> None:
    """In commands and in the running text, and the table of docs/deploy.md has each with its profiles."""
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    named = re.findall(r"docker compose (?:exec|logs|run --rm) ([\w-]+)", page)
    assert {*named} <= SERVICES.keys()
    rows = re.findall(r"^\| (`[^|]+) \| *([^|]*?) *\|", page, re.MULTILINE)
    profiles = {name: profile for names, profile in rows for name in re.findall(r"`([\w-]+)`", names)}
    shown = {"all": {"core", "gpu", "observe"}, "": {"tools"}}
    assert profiles.keys() == SERVICES.keys()
    for name, text in profiles.items():
        assert SERVICES[name].profiles == (shown.get(text) or {*text.split(", ")}), name


@pytest.mark.parametrize(
    "name", [name for name, service in SERVICES.items() if service.is_ours and service.command[1:]]
)
def test_the_commands_of_our_services_exist(name: str) -> None:
    """Each is a verb of the command line, with options that the verb has."""
    verb, *arguments = SERVICES[name].entry["command"]
    (command,) = [known.command for known in every_verb() if known.words == (verb,)]
    options = {option for param in command.params for option in param.opts}
    assert {argument.partition("=")[0] for argument in arguments} <= options
