"""What docs/runbook.md names apart from the commands of tokenlane exists: units, services, containers and settings."""

from __future__ import annotations

import re

from tests.compose import FILE, new_settings, read_services
from tests.documents import commands_of
from tests.repository import ROOT
from tests.systemd import units

from tokenlane.routing.contract.attempt_end import WORKER_LOST
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.watch.finding import Code

PAGE = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
COMMANDS = [*re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", PAGE, flags=re.M | re.S)), *commands_of(PAGE)]
"""All commands, in the text and in blocks, and what else the page shows as code."""
SERVICES = read_services(new_settings())
VALKEY_CONF = (ROOT / "config" / "valkey.conf").read_text(encoding="utf-8")


def commands(program: str) -> list[list[str]]:
    """The words after the program's name, of each command that begins with it."""
    found = [command.removeprefix(f"{program} ").split() for command in COMMANDS if command.startswith(f"{program} ")]
    assert found, f"the page no longer has a command of {program}"
    return found


def test_units_exist() -> None:
    """Those that systemctl and journalctl are asked about."""
    named = {words[-1] for program in ("systemctl", "journalctl") for words in commands(program)}
    assert named <= {unit.name for unit in units()}


def test_services_exist() -> None:
    """Those of `docker compose`, and the container that `docker update` changes."""
    for verb, *words in commands("docker compose"):
        names = [word for word in words if not word.startswith("-")]
        named = names if verb in ("logs", "up", "restart") else names[:1]
        assert {*named} <= SERVICES.keys(), verb
    (project,) = re.findall(r"^name: (\w+)$", FILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {words[-1] for words in commands("docker update")} == {f"{project}-valkey-1"}


def test_settings_of_the_server_exist() -> None:
    """Those that the page tells to change, or never to change."""
    named = {*re.findall(r"CONFIG SET (\S+)", PAGE), *re.findall(r"`(maxmemory\S*)`", PAGE)}
    assert named == {"maxmemory", "maxmemory-policy"}
    assert named <= {line.split()[0] for line in VALKEY_CONF.splitlines() if line and not line.startswith("#")}
    assert re.findall(r"^maxmemory-policy (\S+)$", VALKEY_CONF, re.MULTILINE) == ["noeviction"]
    assert "`noeviction`" in PAGE


def test_more_memory_fits_into_the_container() -> None:
    """The page knows the container's limit, and raises it to twice the memory that it gives the server."""
    memory = SERVICES["valkey"].entry["deploy"]["resources"]["limits"]["memory"]
    assert re.findall(r"Valkey's container has (\d+) GB", PAGE) == [memory.removesuffix("G")]
    (raised,) = [words[words.index("--memory") + 1] for words in commands("docker update")]
    (wanted,) = re.findall(r"CONFIG SET maxmemory (\d+)mb", PAGE)
    assert int(raised.removesuffix("g")) * 1024 >= 2 * int(wanted)
    assert int(wanted) > int(re.findall(r"^maxmemory (\d+)mb$", VALKEY_CONF, re.MULTILINE)[0])


def test_settings_and_codes_of_the_pool_exist() -> None:
    """Every name with an underscore is a setting of the policy, a code of a problem or of an error, or Prometheus'."""
    errors = {kind.code for kind in _all_kinds(LlmError)}
    schema = str(Policy.model_json_schema())
    named = {word for word in COMMANDS if re.fullmatch(r"[a-z]+(_[a-z]+)+", word)}
    assert {"lease_ms", "no_router"} <= named
    assert [name for name in named - {*Code, *errors, WORKER_LOST, "rule_files"} if f"'{name}'" not in schema] == []


def _all_kinds(kind: type[LlmError]) -> set[type[LlmError]]:
    return {kind}.union(*map(_all_kinds, kind.__subclasses__()))
