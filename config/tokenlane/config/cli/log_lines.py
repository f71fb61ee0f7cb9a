"""The log lines of verbs that run on: text for people on a terminal, otherwise JSON, one object for each line.

A line that concerns a request has the request's id. Log calls add facts as `extra={"facts": {...}}`; facts are names,
numbers and codes, and never text of prompts or answers.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from tokenlane.config.settings.values import LogSettings

from .plain_text import json_text, running_text

_NO_FACTS: Mapping[str, object] = {}
_facts: ContextVar[Mapping[str, object]] = ContextVar("facts about the request of this task", default=_NO_FACTS)


@contextmanager
def concerning(request_id: str, attempt: int) -> Iterator[None]:
    """Add the request's id and the attempt to all lines that this task logs in the block."""
    token = _facts.set({"request_id": request_id, "attempt": attempt})
    try:
        yield
    finally:
        _facts.reset(token)


def start_logging(settings: LogSettings, level: int) -> None:
    """Write this process's log to standard error.

    Args:
        level: the level of tokenlane's own loggers if the settings have none.
    """
    if logging.lastResort is not None:
        logging.getLogger().removeHandler(logging.lastResort)  # prints the warnings of all other verbs
    is_text = settings.format == "text" or (settings.format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextLines() if is_text else JsonLines())
    logging.basicConfig(handlers=[handler])
    logging.getLogger("tokenlane").setLevel(level if settings.level is None else settings.level.upper())
    logging.getLogger("arq").setLevel(logging.ERROR)  # its warnings are about outdated attempts


class TextLines(logging.Formatter):
    """Formats lines for people. Text from servers and other hosts cannot control the terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without its traceback, and with the request's id if the message does not have it."""
        line, request_id = super().formatMessage(record), facts_of(record).get("request_id")
        return line if request_id is None or str(request_id) in line else f"{line} (request {request_id})"

    def format(self, record: logging.LogRecord) -> str:
        return running_text(super().format(record))


class JsonLines(logging.Formatter):
    """Formats each line as a JSON object; docs/monitoring.md describes its fields."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **facts_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json_text(line)


def facts_of(record: logging.LogRecord) -> Mapping[str, object]:
    """The facts of a line: those of the request that its task works on, and those of the log call."""
    given = getattr(record, "facts", _NO_FACTS)
    return {**_facts.get(), **given}
