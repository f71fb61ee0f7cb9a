"""All commands of the command line, to hold each to what holds for all."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any, NamedTuple

import pytest

from tokenlane.config.cli import failure
from tokenlane.config.cli import root as cli
from tokenlane.config.cli.strict_options import with_subcommands

__all__ = ["Ended", "Verb", "every_verb", "run"]


class Verb(NamedTuple):
    """A command: how it is called, and as typer makes it of its function, before anything is done with it."""

    words: tuple[str, ...]
    command: Any

    @property
    def takes_json(self) -> bool:
        return any("--json" in param.opts for param in self.command.params)


class Ended(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str


def every_verb() -> Iterator[Verb]:
    """Each verb, and each below it."""
    for verb in sorted(entry_points(group="tokenlane.commands")):
        top = cli._command(verb.name, verb.load())
        for command in with_subcommands(top):
            yield Verb((verb.name,) if command is top else (verb.name, command.name), command)


@contextmanager
def _log_levels_kept() -> Iterator[None]:
    """Commands set the levels of a whole process, which tests of log lines share."""
    before = {name: logging.getLogger(name).level for name in ("", "tokenlane", "arq")}
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Ended:
    """Run the command line in this process."""
    monkeypatch.setattr(sys, "argv", ["tokenlane", *arguments])
    monkeypatch.setattr(failure, "discard_output", lambda: None)  # it is the tests'
    with _log_levels_kept(), pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    code = ended.value.code
    return Ended(code if isinstance(code, int) else 0, out, err)
