"""`tokenlane config`, `config init`, and the options that every configured verb has."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from contextlib import chdir
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from tests.integration.farm import Ended
from tests.repository import ROOT
from tests.verbs import run_redirected

from tokenlane.config.cli import root as cli
from tokenlane.config.exit_codes import OK, USAGE
from tokenlane.config.host.pool_key_files import PoolKey
from tokenlane.config.settings.merged import Settings
from tokenlane.config.settings.read_layers import file_layer

FILE = """\
[redis]
url = "redis://:hunter2@gpu-hub:6379"
[lanes.gpu0]
provider = "vllm"
endpoint = "http://me:hunter2@localhost:8000"
[lanes.gpu1]
capacity = 4
"""


def surroundings(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOKENLANE_")}
    places = {"TOKENLANE_HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    return {**kept, "NO_COLOR": "1", "TERMINAL_WIDTH": "200", **places, **more}


def run(folder: Path, *arguments: str, **environment: str) -> Ended:
    """Run the command line in a folder."""
    with chdir(folder):
        return run_redirected(arguments, surroundings(folder, **environment))


def settings(folder: Path, *arguments: str, **environment: str) -> dict[str, tuple[object, str]]:
    """What `config --json` says: value and source by key."""
    result = run(folder, "config", "--json", *arguments, **environment)
    assert result.code == OK, result.error
    return {row["key"]: (row["value"], row["source"]) for row in json.loads(result.out)["settings"]}


def test_what_holds_is_shown_with_its_source(tmp_path: Path) -> None:
    """Every setting of every lane is there with its source, and no secret is."""
    (tmp_path / "llm.toml").write_text(FILE, encoding="utf-8")
    key = PoolKey.new().reveal()
    result = run(tmp_path, "config", TOKENLANE_REDIS__POOL="blue", TOKENLANE_POOL_KEY=key)
    assert result.code == OK, result.error
    lines = {line.split()[0]: line.split()[1:] for line in result.out.splitlines() if line}
    assert lines["redis.url"] == ["redis://:***@gpu-hub:6379", "llm.toml:2"]
    assert lines["redis.pool"] == ["blue", "TOKENLANE_REDIS__POOL"]
    assert lines["lanes.gpu0.endpoint"] == ["http://me:***@localhost:8000", "llm.toml:5"]
    assert lines["lanes.gpu1.capacity"] == ["4", "llm.toml:7"]
    assert lines["lanes.gpu0.capacity"] == ["auto", "default"]
    assert lines["TOKENLANE_POOL_KEY"] == ["***", "environment"]
    assert "hunter2" not in result.out + result.error
    assert key not in result.out + result.error


def test_a_pool_key_that_is_none_is_told(tmp_path: Path) -> None:
    """It is refused, and not shown."""
    for options in ((), ("--json",)):
        result = run(tmp_path, "config", *options, TOKENLANE_POOL_KEY="tlk1-hunter2")
        refused(result, "TOKENLANE_POOL_KEY")
        assert "hunter2" not in result.out + result.error


def test_variables_that_nothing_reads_are_named(tmp_path: Path) -> None:
    """What has the prefix and is not ours is named, with what may have been meant, and is no error; its value is not
    shown. Those that are read, tests' own, empty ones and the keys of model servers are not named."""
    (tmp_path / "llm.toml").write_text('[openai]\napi_key_env = "TOKENLANE_OPENAI_TOKEN"\n', encoding="utf-8")
    environment = {
        "TOKENLANE_REDIS": "hunter2",
        "TOKENLANE_OLLAMA_ENDPOINT": "http://hunter2",
        "TOKENLANE_COLOUR_SCHEME": "hunter2",
        "TOKENLANE_OPENAI_TOKEN": "read",
        "TOKENLANE_LANE": "read",
        "TOKENLANE_capacity": "4",
        "TOKENLANE_VLLM__TIMEOUT_MS": "7",
        "TOKENLANE_TEST_VLLM": "1",
        "TOKENLANE_EMPTY": "",
    }
    result = run(tmp_path, "config", **environment)
    assert (result.code, result.error) == (OK, "")
    assert [line for line in result.out.splitlines() if line.startswith("unknown")] == [
        "unknown variable: TOKENLANE_COLOUR_SCHEME.",
        "unknown variable: TOKENLANE_OLLAMA_ENDPOINT. Did you mean 'TOKENLANE_OLLAMA__ENDPOINT'?",
        "unknown variable: TOKENLANE_REDIS. Did you mean 'TOKENLANE_REDIS_URL'?",
        "unknown variable: TOKENLANE_capacity. Did you mean 'TOKENLANE_CAPACITY'?",
    ]
    assert "hunter2" not in result.out
    document = json.loads(run(tmp_path, "config", "--json", **environment).out)
    assert document["unknown"] == [
        *("TOKENLANE_COLOUR_SCHEME", "TOKENLANE_OLLAMA_ENDPOINT", "TOKENLANE_REDIS", "TOKENLANE_capacity")
    ]


def test_the_command_line_wins(tmp_path: Path) -> None:
    """All that follows --llm is taken, and --config names the file."""
    file = tmp_path / "other.toml"
    file.write_text(FILE, encoding="utf-8")
    found = settings(tmp_path, "--config", "other.toml", "--llm", "model=phi3:8b", "timeout_ms=7", "--lane", "gpu0")
    assert found["lanes.gpu0.models"] == (["phi3:8b"], "--llm")
    assert found["lanes.gpu0.timeout_ms"] == (7, "--llm")
    assert found["lanes.gpu0.provider"] == ("vllm", f"{file}:4")
    assert "lanes.gpu1.capacity" not in found


def test_on_a_terminal_it_is_a_table(tmp_path: Path) -> None:
    """On a terminal the settings are drawn under headings."""
    main, side = pty.openpty()
    command = [sys.executable, "-m", "tokenlane.config", "config"]
    environment = surroundings(tmp_path, COLUMNS="150", TERM="xterm")
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=side, stdout=side, stderr=side) as process:
        os.close(side)
        seen = b""
        try:
            while piece := os.read(main, 65536):
                seen += piece
        except OSError:  # how Linux says that the other side is closed
            pass
        finally:
            os.close(main)
        assert process.wait(30) == OK
    assert re.search(r"setting\s+value\s+source", re.sub(r"\x1b\[\d+m", "", seen.decode()))


def test_init_on_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """What cannot be written whole is told, and does not stand in the way of the next try."""
    limited = f"ulimit -f 0; exec {sys.executable} -m tokenlane.config config init"
    ran = subprocess.run(
        ["sh", "-c", limited], cwd=tmp_path, env=surroundings(tmp_path), capture_output=True, text=True, check=False
    )
    assert ran.returncode == USAGE
    assert "cannot be written" in ran.stderr
    assert not (tmp_path / "llm.toml").exists()


def test_init_writes_a_file_that_changes_nothing_and_is_never_overwritten(tmp_path: Path) -> None:
    """The file is valid and sets nothing; a second `init` is refused and leaves it."""
    assert run(tmp_path, "config", "init").code == OK
    file = tmp_path / "llm.toml"
    assert not any(setting.value for setting in Settings([file_layer(file)], {}, file).leaves.values())
    file.write_text("# mine", encoding="utf-8")
    again = run(tmp_path, "config", "init")
    assert (again.code, file.read_text()) == (USAGE, "# mine")
    assert "llm.toml" in again.error
    assert "already" in again.error


def test_every_example_in_the_written_file_is_valid(tmp_path: Path) -> None:
    """With all comments that look like settings made settings, the file is read without complaint, and is complete."""
    template = resources.files("tokenlane.config").joinpath("llm.toml").read_text(encoding="utf-8")
    assert (ROOT / "config" / "llm.toml").read_text(encoding="utf-8") == template
    file = tmp_path / "llm.toml"
    file.write_text(re.sub(r"^# (?=\[|\w+ = )", "", template, flags=re.MULTILINE), encoding="utf-8")
    found = Settings([file_layer(file)], {}, file)
    assert found.document.has_policy
    policy = found.document.policy
    assert policy.model_fields_set == type(policy).model_fields.keys()
    assert found.document.lanes["gpu0"].models
    assert found.document.roles["coder"].route


def test_every_configured_verb_takes_the_options() -> None:
    """`--config` and `--llm` are options of every verb that reads settings, and of its own verbs."""
    for verb in entry_points(group="tokenlane.commands"):
        command = cli._load(verb)
        for one in (command, *getattr(command, "commands", {}).values()):
            options = {option for parameter in one.params for option in parameter.opts}
            assert ({"--config", "--llm"} <= options) == cli.VERBS[verb.name].configured, verb.name


def test_what_is_wrong_in_the_options_is_told(tmp_path: Path) -> None:
    """A file that is not there, and what is no key=value, end a verb with 2."""
    for arguments, said in {("--config", "nix.toml"): "nix.toml", ("--llm", "--json"): "key=value"}.items():
        result = run(tmp_path, "chat", "why", *arguments, TOKENLANE_REDIS_URL="redis://127.0.0.1:1")
        assert result.code == USAGE, result.error
        assert said in result.error


@pytest.mark.parametrize("arguments", [("--llm", "a=b", "config"), ("--llm",), ("--config=f", "config")])
def test_options_of_verbs_follow_the_verb(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Without a verb in front of them they are refused."""
    assert run(tmp_path, *arguments).code == USAGE


def as_a_user(folder: Path, *arguments: str, script: str = "", **environment: str) -> Ended:
    """Run the command line as somebody whom a directory's mode stops, after a shell's script."""
    plain = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may enter every directory, and there is no setpriv")
        plain = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    command = [*plain, sys.executable, "-m", "tokenlane.config", *arguments]
    ran = subprocess.run(
        ["sh", "-c", f'{script}\nexec "$@"', "sh", *command],
        cwd=folder,
        env=surroundings(folder, **environment),
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(ran.returncode, ran.stdout, ran.stderr)


def refused(result: Ended, *said: str) -> None:
    """One line says what is wrong."""
    assert result.code == USAGE, result.error
    assert len(result.error.splitlines()) == 1, result.error
    for part in said:
        assert part in result.error


def test_directories_that_may_not_be_entered_are_told(tmp_path: Path) -> None:
    """A file that cannot be looked for is not taken to be missing, and one that is named needs no looking."""
    users = tmp_path / "tokenlane"
    users.mkdir()
    (users / "llm.toml").touch()
    users.chmod(0)
    refused(as_a_user(tmp_path, "config"), f"cannot look for llm.toml in {users}: Permission denied", "--config")
    refused(as_a_user(tmp_path, "status"), str(users))
    (tmp_path / "llm.toml").touch()
    assert as_a_user(tmp_path, "config").code == OK
    here = tmp_path / "here"
    here.mkdir()
    closed = as_a_user(here, "config", script="chmod 000 .", XDG_CONFIG_HOME=str(tmp_path / "none"))
    refused(closed, "cannot look for llm.toml in the current directory: Permission denied", "--config")
    named = as_a_user(here, "config", "--config", str(tmp_path / "llm.toml"))
    here.chmod(0o700)
    users.chmod(0o700)
    assert named.code == OK, named.error


def test_a_directory_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    """A loop of links in the place of the user's directory is no silence either."""
    (tmp_path / "tokenlane").symlink_to("tokenlane")
    refused(run(tmp_path, "config"), f"cannot look for llm.toml in {tmp_path / 'tokenlane'}")


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("config", "--config", "x.toml"), {}, "--config x.toml: the current directory"),
        (("status",), {"TOKENLANE_HOME": "home"}, "TOKENLANE_HOME home: the current directory"),
        (("up",), {"TOKENLANE_HOME": "home"}, "TOKENLANE_HOME home: the current directory"),
        (("key", "show", "--file", "k"), {}, "--file k: the current directory"),
        (("key", "new", "--file", "k"), {}, "--file k: the current directory"),
    ],
)
def test_a_current_directory_that_is_gone_is_told(
    tmp_path: Path, arguments: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    """A path from a directory that was deleted is refused in one line."""
    gone = "mkdir gone; cd gone; rmdir ../gone"
    refused(as_a_user(tmp_path, *arguments, script=gone, **environment), said, "absolute path")
