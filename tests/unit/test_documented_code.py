"""The code on the pages of the documentation is valid: commands, settings and JSON.

Other tests run it: those of `tests/live/test_readme.py` the commands, `test_examples.py` the Python. The units of
systemd are those that `tests/unit/config/test_service_files.py` checks.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from configparser import ConfigParser
from pathlib import Path

import pytest
from tests.documents import ELSEWHERE, PAGES_WITH_COMMANDS, SKIPPED, commands_of, fenced
from tests.repository import ROOT
from tests.verbs import every_verb

from tokenlane.benches.simulator.faults import read_faults
from tokenlane.config.settings.environment import SECRETS, SHORT_NAMES
from tokenlane.config.settings.load import hook_settings, read
from tokenlane.routing.decide.policy_file import policy_of
from tokenlane.routing.hooks.load import load_hooks
from tokenlane.worker.model_management.files.manifest import Manifest

PAGES = sorted({ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")})
INDENTED = re.compile(r"^\n {4}\S", re.MULTILINE)
LANGUAGES = {"console", "ini", "json", "nginx", "python", "text", "toml", "wit", "yaml"}
PLAIN_TEXT = {"architecture": 1, "redis": 1, "tracing": 1, "requests": 2, "operations": 4, "swap": 2}
"""The blocks that are neither run nor parsed here: diagrams, a Redis user, which test_acl.py makes, and output."""
OF_EVERY_VERB = {"--llm", "--config", "--help"}


def as_settings(file: Path) -> None:
    assert read().file == file


def as_hooks(file: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs" / "examples")
        assert load_hooks(hook_settings()).request is not None
    as_settings(file)


def as_policy(file: Path) -> None:
    assert policy_of(read()).roles or policy_of(read()).aliases
    as_settings(file)


def as_faults(file: Path) -> None:
    assert read_faults(file)


def as_the_example_project(file: Path) -> None:
    example = tomllib.loads((ROOT / "docs" / "example-provider" / "pyproject.toml").read_text(encoding="utf-8"))
    shown = tomllib.loads(file.read_text(encoding="utf-8"))
    assert shown["project"]["entry-points"] == example["project"]["entry-points"]


def as_pytest_options(file: Path) -> None:
    used = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    shown = tomllib.loads(file.read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    assert shown.items() <= used.items()
    (ini,) = fenced("ini", text_of(ROOT / "docs" / "testing.md"))
    parser = ConfigParser()
    parser.read_string(ini)
    assert dict(parser["pytest"]) == shown


VALIDATORS: dict[str, Callable[[Path], None]] = {
    "deploy-systemd": as_settings,
    "hooks": as_hooks,
    "models": as_settings,
    "plugins": as_settings,
    "policy": as_policy,
    "providers": as_the_example_project,
    "simulator": as_faults,
    "swap": as_settings,
    "testing": as_pytest_options,
}


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    """`docs/README.md` is another page than `README.md`."""
    return page.stem if page.parent == ROOT / "docs" and page.stem != "README" else str(page.relative_to(ROOT))


def toml_blocks() -> Iterator[tuple[str, str]]:
    """The pages with TOML, each with its blocks."""
    for page in PAGES:
        for code in fenced("toml", text_of(page)):
            yield name_of(page), code


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_is_fenced_in_a_known_language(page: Path) -> None:
    """An indented block, or one in a language that no test knows, would be run and validated by nothing."""
    text = text_of(page)
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert INDENTED.findall(outside) == []
    assert set(re.findall(r"^```(\S*)\n.*?^```$", text, re.MULTILINE | re.DOTALL)) <= LANGUAGES
    assert len(fenced("text", text)) == PLAIN_TEXT.get(name_of(page), 0)


def test_every_page_with_commands_is_run() -> None:
    """The pages with console blocks are those that tests run."""
    assert {name_of(page) for page in PAGES if fenced("console", text_of(page))} == {*PAGES_WITH_COMMANDS, *ELSEWHERE}


def is_known(command: str, verbs: Mapping[tuple[str, ...], set[str]]) -> bool:
    """Whether a line `tokenlane …` names a verb of the command line, and options of that verb alone."""
    words = shlex.split(command.partition("|")[0], comments=True)[1:]
    words = words[: words.index("--")] if "--" in words else words  # what follows is for another program
    named = {word.partition("=")[0] for word in words if re.match(r"--\w", word)}
    verb = tuple(words[:2]) if tuple(words[:2]) in verbs else tuple(words[:1])
    if verb in verbs:
        return named <= verbs[verb] | OF_EVERY_VERB
    return verb[0].startswith("-") or (verb[0] in {known[0] for known in verbs} and not named)


def test_verbs_and_options_of_commands_exist() -> None:
    """In console blocks and in the running text."""
    verbs = {verb.words: {option for param in verb.command.params for option in param.opts} for verb in every_verb()}
    commands = [
        (name_of(page), command)
        for page in PAGES
        for command in (*commands_of(text_of(page)), *re.findall(r"`(tokenlane [^`]+)`", text_of(page)))
        if command.startswith("tokenlane ")
    ]
    assert len(commands) > len(verbs)
    assert [(page, command) for page, command in commands if not is_known(command, verbs)] == []


def test_skipped_commands_are_right() -> None:
    """Verbs of make are in the Makefile, and exported variables are ones that tokenlane reads."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    skipped = [command for page in PAGES for command in commands_of(text_of(page)) if command.startswith(SKIPPED)]
    made = {command.split()[1] for command in skipped if command.startswith("make ")}
    assert {verb for verb in made if not re.search(rf"^{verb}:", makefile, re.MULTILINE)} == set()
    exported = {name for command in skipped for name in re.findall(r"^export (\w+)=", command)}
    assert exported
    assert exported <= {"OTEL_EXPORTER_OTLP_ENDPOINT", *(f"TOKENLANE_{name}" for name in (*SHORT_NAMES, *SECRETS))}


@pytest.mark.parametrize(("page", "code"), [*toml_blocks()])
def test_toml_is_valid(page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads such a file accepts it."""
    file = tmp_path / "llm.toml"
    file.write_text(code.replace("sha256:…", f"sha256:{'0' * 64}"), encoding="utf-8")
    monkeypatch.setenv("TOKENLANE_CONFIG", str(file))
    VALIDATORS[page](file)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_json_is_valid(page: Path) -> None:
    """It parses."""
    for code in fenced("json", text_of(page)):
        assert json.loads(code)


def test_the_digest_of_several_files_is_what_sha256sum_prints(tmp_path: Path) -> None:
    """The documented command, in a model's folder, prints the digest of the model."""
    (command,) = [command for command in commands_of(text_of(ROOT / "docs" / "models.md")) if "sha256sum" in command]
    (tmp_path / "sub").mkdir()
    for name in ("model.gguf", "a file", "sub/config.json"):
        (tmp_path / name).write_text(name)
    printed = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    manifest = Manifest.of("m", tmp_path, ["model.gguf", "a file", "sub/config.json"])
    assert manifest.digest == f"sha256:{printed.split()[0]}"
