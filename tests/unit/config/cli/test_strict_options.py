"""What holds for the options, arguments and helps of all verbs, and for all variables."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from tests.verbs import Verb, every_verb, run
from typer import rich_utils

from tokenlane.config import exit_codes as exits
from tokenlane.config.cli import root as cli
from tokenlane.config.cli.strict_options import prepare
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.up_registry import data_dir
from tokenlane.config.settings.environment import SECRETS, SHORT_NAMES, long_names
from tokenlane.config.settings.load import read
from tokenlane.producer import Client
from tokenlane.routing.contract.errors import LlmError

VERBS = [pytest.param(verb, id="-".join(verb.words)) for verb in every_verb()]


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment that says nothing; what a test leaves in it is removed."""
    for name in os.environ:
        if name.startswith("TOKENLANE_"):
            monkeypatch.delenv(name)
    for name in ("TOKENLANE_CONFIG", "TOKENLANE_LLM"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setenv("TOKENLANE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("verb", VERBS)
def test_an_empty_value_is_refused_by_name(
    verb: Verb, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each option and each argument, of `--config` and `--llm` too: never taken for one that is not given."""
    values = [param for param in verb.command.params if not getattr(param, "is_flag", False)]
    if cli.VERBS[verb.words[0]].configured:
        values += cli._command("", cli._configuration).params
    before: list[str] = []
    for param in values:
        option = param.param_type_name == "option"
        name = max(param.opts, key=len) if option else param.display_name_raw
        ended = run(capsys, monkeypatch, *verb.words, *((name, "") if option else (*before, "")))
        if param.name == "tool":
            before.append("claude")  # its arguments follow
        assert ended.code == exits.USAGE, (name, ended)
        assert (ended.out, name in ended.error) == ("", True), (name, ended)
        assert ("leave it out" in ended.error) is not param.required, (name, ended)


@pytest.mark.parametrize("verb", VERBS)
def test_no_default_is_empty(verb: Verb) -> None:
    """It would be refused where nothing was given."""
    assert [param.name for param in verb.command.params if param.default in ("", [""])] == []


@pytest.mark.parametrize("assignment", ["model=", "models=", "endpoint=", "provider=", "lanes.g.models=", "redis.url=",
                                        "redis.pool=", "roles.coder.route=", "embeddings.cache_mb="])  # fmt: skip
def test_an_empty_setting_is_refused(
    assignment: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that `--llm` sets to nothing is not one that is left out."""
    ended = run(capsys, monkeypatch, "config", "--llm", assignment)
    assert (ended.code, ended.out) == (exits.USAGE, ""), ended


@pytest.mark.parametrize("text", ["[lanes.a]\nmodels = []", "[roles.coder]\nroute = []"])
def test_an_empty_list_is_refused(text: str) -> None:
    """It would mean all models, and all lanes, where it looks like none."""
    Path("llm.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"llm\.toml:2"):
        read()


@pytest.mark.parametrize("name", [*SHORT_NAMES, *SECRETS, *long_names(), "LANES__G__X"])
def test_an_empty_variable_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable that is read: what would be found in its place may be another pool, or another model."""
    monkeypatch.setenv(f"TOKENLANE_{name}", "")
    with pytest.raises(ConfigError, match=f"TOKENLANE_{name}"):
        read()


def test_an_empty_home_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not the user's own directory."""
    monkeypatch.setenv("TOKENLANE_HOME", "")
    with pytest.raises(ConfigError, match="TOKENLANE_HOME"):
        data_dir()


@pytest.mark.parametrize("given", [{"pool": ""}, {"agent": ""}, {"key": ""}, {"key": [""]}, {"url": ""}])
def test_an_empty_argument_of_a_client_is_refused(given: dict[str, Any]) -> None:
    """As on the command line."""
    with pytest.raises((ValueError, TypeError, LlmError)):
        Client(**({"url": "redis://h"} | given))


@pytest.mark.parametrize("verb", VERBS)
def test_no_help_loses_a_word(verb: Verb, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in brackets is no markup: each word of a docstring and of its options' helps is shown."""
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", 4000)
    ended = run(capsys, monkeypatch, *verb.words, "--help")
    assert ended.code == exits.OK
    shown = set(re.sub(r"[│╭╮╰╯─]", " ", ended.out).split())
    texts = [verb.command.help or "", *(param.help or "" for param in verb.command.params if not _hidden(param))]
    texts += [command.help or "" for command in getattr(verb.command, "commands", {}).values()]
    assert [word for text in texts for word in text.split() if word not in shown] == []


def test_the_root_s_help_loses_no_word(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines are not those of the verbs."""
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", 4000)
    shown = run(capsys, monkeypatch, "--help").out.split()
    assert [word for verb in cli.VERBS.values() for word in verb.help.split() if word not in shown] == []


def _hidden(param: Any) -> bool:
    return bool(getattr(param, "hidden", False))


def test_a_verb_of_another_distribution_may_have_empty_defaults() -> None:
    """What is refused is given, and no default."""
    seen: list[str] = []

    def verb(name: Annotated[str, typer.Option()] = "") -> None:
        seen.append(name)

    command = cli._command("verb", verb)
    prepare(command)
    command(args=[], standalone_mode=False)
    with pytest.raises(ConfigError, match="--name"):
        command(args=["--name", ""], standalone_mode=False)
    assert seen == [""]
