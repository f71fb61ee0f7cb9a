"""What a shell completes, and how it is taught to; and that NO_COLOR leaves nothing but text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rich.text import Text
from tests.verbs import run
from typer import rich_utils

from tokenlane.config import exit_codes as exits
from tokenlane.config.cli.output import console
from tokenlane.routing.commands import completion

_DETECTION = "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No pool and no settings; what a test leaves in the environment is removed."""
    for name in os.environ:
        if name.startswith("TOKENLANE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv(_DETECTION, "x")
    monkeypatch.delenv(_DETECTION)
    monkeypatch.setenv("TOKENLANE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("shell", "mark"), [("bash", "COMPREPLY"), ("zsh", "#compdef"), ("fish", "--no-files"), ("pwsh", "PSReadLine")]
)
@pytest.mark.parametrize("apart", [False, True])
def test_the_shell_that_is_named_decides(
    shell: str, mark: str, apart: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the one that runs."""
    arguments = ["--show-completion", shell] if apart else [f"--show-completion={shell}"]
    ended = run(capsys, monkeypatch, *arguments)
    assert (ended.code, mark in ended.out) == (exits.OK, True)


def test_a_home_that_cannot_be_written_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In one line, with what to do instead."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    ended = run(capsys, monkeypatch, "--install-completion", "bash")
    assert (ended.code, len(ended.error.splitlines())) == (exits.FAILED, 1)
    assert "--show-completion" in ended.error


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("tokenlane ch", {"chat"}),
        ("tokenlane policy ap", {"apply"}),
        ("tokenlane chat --priority ", {"high", "normal", "low"}),
        ("tokenlane worker --provider l", {"llamacpp", "lmstudio"}),
        ("tokenlane up --lane g", {"gpu0", "gpu1"}),
        ("tokenlane models pull m --lane ", {"gpu0", "gpu1"}),
        ("tokenlane chat --role p", {"planner"}),
        ("tokenlane chat --model ", {"m1"}),
        ("tokenlane models pull ", {"m1"}),
        ("tokenlane lanes drain ", {"gpu0", "gpu1"}),
        ("tokenlane lanes resume gpu0", {"gpu0"}),
        ("tokenlane roles pause ", {"planner"}),
        ("tokenlane roles purge p", {"planner"}),
        ("tokenlane requests ls --role ", {"planner"}),
        ("tokenlane requests cancel --role ", {"planner"}),
        ("tokenlane failed ls --role ", {"planner"}),
    ],
)
def test_values_are_completed(
    line: str, found: set[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verbs, choices, providers, and the names of the configuration; without a pool they are all there is."""
    Path("llm.toml").write_text("[lanes.gpu0]\n[lanes.gpu1]\n[roles.planner]\n[models.m1]\n", encoding="utf-8")
    words = line.split(" ")
    monkeypatch.setenv("_TOKENLANE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    ended = run(capsys, monkeypatch)
    assert (set(ended.out.split()), ended.error) == (found, "")


def test_a_wrong_configuration_completes_nothing() -> None:
    """And says nothing, for a shell would show it in the middle of the line."""
    Path("llm.toml").write_text("[", encoding="utf-8")
    assert (completion.lanes(""), completion.roles(""), completion.models("")) == ([], [], [])


def test_no_color_means_no_style_at_all(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in tables nor in helps, also on what is a terminal."""
    monkeypatch.setattr(rich_utils, "COLOR_SYSTEM", "truecolor")
    monkeypatch.setattr(rich_utils, "FORCE_TERMINAL", True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    console().print(Text("text", style="bold red"))
    ended = run(capsys, monkeypatch, "policy", "--help")
    assert "text" in ended.out
    assert "\x1b" not in ended.out
