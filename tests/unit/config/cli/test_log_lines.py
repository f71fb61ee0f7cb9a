"""The log lines of verbs: text on a terminal, JSON elsewhere."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tokenlane.config.cli.log_lines import JsonLines, TextLines, concerning, start_logging
from tokenlane.config.settings.values import LogSettings

LOGGER = logging.getLogger("tokenlane.test")


@contextmanager
def logging_to(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing logs yet, and standard error is this stream; handlers and levels are afterwards as before."""
    root, before = logging.getLogger(), {name: logging.getLogger(name).level for name in ("tokenlane", "arq")}
    handlers, root.handlers = root.handlers, []
    monkeypatch.setattr(sys, "stderr", stream)
    try:
        yield
    finally:
        root.handlers = handlers
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def record(message: str = "the server is away", **facts: object) -> logging.LogRecord:
    extra = {"facts": facts} if facts else None
    return LOGGER.makeRecord(LOGGER.name, logging.WARNING, "file.py", 1, message, (), None, extra=extra)


def test_a_line_is_json() -> None:
    """It has a time with its zone, the level, the logger, the message and the facts of the call."""
    line = json.loads(JsonLines().format(record(lane="gpu0", attempts=2)))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "tokenlane.test",
        "message": "the server is away",
        "lane": "gpu0",
        "attempts": 2,
    }


def test_lines_of_a_request() -> None:
    """In the block, every line of the task has the request's id and the attempt; after it, none does."""
    with concerning("3f2a", 7):
        line = json.loads(JsonLines().format(record()))
        text = TextLines().format(record())
        named = TextLines().format(record("request 3f2a ended"))
    assert (line["request_id"], line["attempt"]) == ("3f2a", 7)
    assert "3f2a" in text
    assert named.count("3f2a") == 1
    assert "request_id" not in json.loads(JsonLines().format(record()))


def test_a_line_is_one_line_and_harmless() -> None:
    """A text from elsewhere can neither begin a new line nor control the terminal."""
    line = JsonLines().format(record("a\nb\x1b[2J"))
    assert "\n" not in line
    assert "\x1b" not in line
    assert json.loads(line)["message"] == "a\nb\x1b[2J"
    assert "\x1b" not in TextLines().format(record("a\x1b[2J"))
    raised = record("failed")
    raised.exc_info = (ValueError, ValueError("\x1b]0;title\x07"), None)
    assert TextLines().format(raised).endswith("\nValueError: ]0;title")


def test_a_traceback_is_a_field() -> None:
    """An unexpected error stays on its line."""
    try:
        raise ValueError
    except ValueError:
        failed = LOGGER.makeRecord(LOGGER.name, logging.ERROR, "file.py", 1, "failed", (), sys.exc_info())
    assert "ValueError" in json.loads(JsonLines().format(failed))["traceback"]


@pytest.mark.parametrize(
    ("settings", "on_terminal", "is_json"),
    [
        (LogSettings(), True, False),
        (LogSettings(), False, True),
        (LogSettings(format="text"), False, False),
        (LogSettings(format="json"), True, True),
    ],
)
def test_the_form(settings: LogSettings, on_terminal: bool, is_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is text on a terminal and JSON elsewhere, unless the settings force one."""
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: on_terminal, raising=False)
    with logging_to(stream, monkeypatch):
        start_logging(settings, logging.INFO)
        LOGGER.info("up")
    assert stream.getvalue().startswith("{") == is_json
    assert "up" in stream.getvalue()


def test_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings win over the verb's default."""
    stream = io.StringIO()
    with logging_to(stream, monkeypatch):
        start_logging(LogSettings(level="error"), logging.INFO)
        LOGGER.warning("away")
    assert stream.getvalue() == ""
