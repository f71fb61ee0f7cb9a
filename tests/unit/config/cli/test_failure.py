"""How a command that fails says so."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.verbs import Verb, every_verb, run
from typer import rich_utils

from tokenlane.config import exit_codes as exits
from tokenlane.config.cli.failure import as_user_error
from tokenlane.config.exit_codes import ConfigError, UserError
from tokenlane.routing.commands.pool_session import error_for_user
from tokenlane.routing.contract.errors import BadRequest, PoolUnavailable, QueueFull, RateLimited

VERBS = [pytest.param(verb, id="-".join(verb.words)) for verb in every_verb()]
WITH_JSON = [pytest.param(verb, id="-".join(verb.words)) for verb in every_verb() if verb.takes_json]
FIELDS = ["code", "message", "retryable", "retry_after_s", "provider", "lane", "model", "request_id"]
ARGUMENTS = {"chat": ["hi"], "embed": ["hi"], "models": ["m"], "policy": [], "key": []}
NOBODY = "redis://127.0.0.1:1"


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No pool, and no settings but a file that is a policy."""
    for name in os.environ:
        if name.startswith("TOKENLANE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TOKENLANE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llm.toml").write_text("[policy]\ndepth = 7\n[defaults]\nprovider = 'openai'\n", encoding="utf-8")


@pytest.mark.parametrize("verb", WITH_JSON)
def test_a_failure_is_json_too(verb: Verb, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong use and a pool that is not there: one object on standard output, words for people on standard error."""
    tries = [["--nope"]]
    if any("--redis" in param.opts for param in verb.command.params) and verb.words != ("invite",):  # asks nobody
        arguments = [] if verb.words[-1] == "ls" else ARGUMENTS.get(verb.words[0], [])
        tries.append([*arguments, "--redis", NOBODY])
    for arguments in tries:
        ended = run(capsys, monkeypatch, *verb.words, "--json", *arguments)
        error = json.loads(ended.out)["error"]
        assert list(error) == FIELDS
        assert (ended.code, error["retryable"]) == (exits.USAGE, False)
        assert error["code"] in ("usage", "pool_unavailable")
        assert ended.error


def test_what_follows_two_dashes_is_no_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that is `--json` asks for none."""
    ended = run(capsys, monkeypatch, "chat", "--redis", NOBODY, "--", "--json")
    assert (ended.code, ended.out) == (exits.USAGE, "")


def test_an_error_of_the_pool_keeps_what_it_knows() -> None:
    """Code, place, and whether and when to try again; words for people are added to those of the message alone."""
    error = error_for_user(
        RateLimited("slow down", retry_after_s=2.5, provider="vllm", lane="gpu0", model="m").at(request_id="4f"),
        "told: wait",
    )
    assert (str(error), error.exit_code) == ("told: wait", exits.FAILED)
    assert error.document() == dict(
        zip(FIELDS, ["rate_limited", "slow down", True, 2.5, "vllm", "gpu0", "m", "4f"], strict=True)
    )


@pytest.mark.parametrize(
    ("error", "code"), [(BadRequest(), exits.USAGE), (PoolUnavailable(), exits.USAGE), (QueueFull(), exits.FAILED)]
)
def test_what_another_try_cannot_help_is_wrong_use(error: BadRequest | PoolUnavailable | QueueFull, code: int) -> None:
    """The exit code says which it is."""
    assert error_for_user(error).exit_code == code


def test_an_error_in_groups_is_taken_out() -> None:
    """The first of them; what is no error of ours stays a fault."""
    wrong = ConfigError("wrong")
    assert as_user_error(ExceptionGroup("", [ExceptionGroup("", [wrong])])) is wrong
    assert as_user_error(ExceptionGroup("", [ValueError()])) is None


@contextmanager
def closed_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard output is a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = open(writer, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - closing it would write what is left
    monkeypatch.setattr(sys, "stdout", stream)
    yield
    os.close(writer)


@pytest.mark.parametrize(
    "arguments", [*([*verb.words, "--help"] for verb in every_verb()), ["--help"], ["--version"], ["config"],
                  ["config", "--json"], ["chat", "hi", "--json", "--redis", NOBODY]]
)  # fmt: skip
def test_a_pipe_that_is_closed_ends_as_shells_have_it(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 141, and not a word about it."""
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", 80)
    with closed_pipe(monkeypatch):
        ended = run(capsys, monkeypatch, *arguments)
    assert (ended.code, ended.error) == (exits.CLOSED_PIPE, "")


def test_nothing_that_steers_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An error may hold what somebody else named."""
    ended = run(capsys, monkeypatch, "chat", "hi", "--json", "--pool", "a\u202eb\x1b[2J")
    assert ended.code == exits.USAGE
    assert not set("\u202e\x1b") & set(ended.out + ended.error)


def test_a_user_error_is_a_document() -> None:
    """All fields are there, whatever is known of it."""
    assert list(UserError("x").document()) == FIELDS
