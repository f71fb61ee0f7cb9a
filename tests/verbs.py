"""All commands of the command line, to hold each to what holds for all."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import entry_points
from io import StringIO
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
from tests.integration.farm import Ended, environment

from tokenlane.config.cli import failure
from tokenlane.config.cli import root as cli
from tokenlane.config.cli.strict_options import with_subcommands
from tokenlane.config.host import stop_signals

__all__ = ["Verb", "every_verb", "run", "run_in_thread", "run_redirected"]


class Verb(NamedTuple):
    """A command: how it is called, and as typer makes it of its function, before anything is done with it."""

    words: tuple[str, ...]
    command: Any

    @property
    def takes_json(self) -> bool:
        return any("--json" in param.opts for param in self.command.params)


def every_verb() -> Iterator[Verb]:
    """Each verb, and each below it."""
    for verb in sorted(entry_points(group="tokenlane.commands")):
        top = cli._command(verb.name, verb.load())
        for command in with_subcommands(top):
            yield Verb((verb.name,) if command is top else (verb.name, command.name), command)


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Commands set the levels and handlers of a whole process, which tests of log lines share."""
    before = {name: logging.getLogger(name).level for name in ("", "tokenlane", "arq")}
    try:
        with patch.object(logging, "lastResort", None):
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Ended:
    """Run the command line in this process."""
    monkeypatch.setattr(sys, "argv", ["tokenlane", *arguments])
    monkeypatch.setattr(failure, "discard_output", lambda: None)  # it is the tests'
    code = _exit_code()
    return Ended(code, *capsys.readouterr())


async def run_in_thread(*arguments: str, **variables: str) -> Ended:
    """Run a command that ends by itself in a thread of this process: a new process takes ten times as long.

    One at a time, and no process is started meanwhile: it changes this process's environment and output.
    """
    return await asyncio.to_thread(run_redirected, arguments, environment() | variables)


def run_redirected(arguments: Sequence[str], variables: Mapping[str, str]) -> Ended:
    """Run the command line in this process and this environment."""
    out, error = StringIO(), StringIO()
    with (
        patch.dict(os.environ, variables, clear=True),
        patch.object(sys, "argv", ["tokenlane", *arguments]),
        patch.object(failure, "discard_output"),  # it is the tests'
        patch.object(stop_signals, "stop_signals", return_value=()),  # the main thread alone hears them
        redirect_stdout(out),
        redirect_stderr(error),
    ):
        code = _exit_code()
    return Ended(code, out.getvalue(), error.getvalue())


def _exit_code() -> int:
    with _logging_kept():
        try:
            cli.main()
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else 0
    raise AssertionError("a command line ends its process")
