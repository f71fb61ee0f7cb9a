"""`tokenlane chat`: asks one question and streams the answer to standard output."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tokenlane.config.cli.output import note
from tokenlane.config.cli.plain_text import escaped, json_text, running_text
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.bounded_files import standard_input
from tokenlane.config.settings.load import provider_and_model
from tokenlane.producer.client import Client
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.requests import ChatOptions, Message

from .client_session import (
    Model,
    Priority,
    Role,
    Timeout,
    client_session,
    explain_start,
    explaining_wait,
    time_to_live_ms,
)


def chat(
    question: Annotated[str, typer.Argument(help="The question; `-` reads it from standard input.")],
    role: Role = "default",
    model: Model = None,
    system: Annotated[str | None, typer.Option(help="A system message to send before the question.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="The maximum number of tokens to generate.")] = None,
    temperature: Annotated[float | None, typer.Option(help="The sampling temperature.")] = None,
    priority: Priority = "normal",
    timeout: Timeout = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each delta as a line of JSON, then the usage.")
    ] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Ask a question and stream the answer.

    If the answer breaks off, another lane continues it. On a terminal, an answer that no lane can continue begins anew.
    """
    messages = [Message(role="system", content=_utf8(system))] if system is not None else []
    messages.append(Message(role="user", content=_question(question)))
    provider, other_model = provider_and_model()
    options: ChatOptions = {
        "provider": provider,
        "model": model or other_model,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "priority": priority,
        "time_to_live_ms": time_to_live_ms(timeout),
    }

    is_terminal = sys.stdout.isatty() and not as_json
    if is_terminal:
        options["on_interrupt"] = "restart"  # a person can read two answers; a file would hold both

    async def ask(client: Client) -> None:
        answer = _PrintedAnswer(as_json=as_json, is_terminal=is_terminal)
        async with client.chat(messages, role=role, **options) as stream:
            try:
                async with explaining_wait(stream, answer.explain):
                    async for delta in stream:
                        answer.show(delta)
            except LlmError:
                answer.end_line()
                raise
            if as_json:
                usage = stream.usage.model_dump() if stream.usage else None
                _write(json_text({"request_id": stream.request_id, "usage": usage}) + "\n")
            elif not stream.text.endswith("\n"):
                _write("\n")

    client_session(ask, redis, pool, has_timeout=True)


class _PrintedAnswer:
    """Prints an answer to standard output, and to standard error what happens to it."""

    def __init__(self, *, as_json: bool, is_terminal: bool) -> None:
        self._as_json = as_json
        self._is_terminal = is_terminal
        self._last: TokenDelta | None = None
        self._line_is_open = False

    def show(self, delta: TokenDelta) -> None:
        """Print a delta. If it is the first one of another attempt, explain that to a person at a terminal."""
        if self._last is not None and self._last.attempt != delta.attempt and sys.stderr.isatty():
            self._note(_explain_failover(self._last, delta))
        self._last = delta
        if self._as_json:
            empty = set[str]() if delta.logprobs else {"logprobs"}
            _write(escaped(delta.model_dump_json(exclude_none=True, exclude=empty)) + "\n")
            return
        _write(running_text(delta.text) if self._is_terminal else delta.text)
        if delta.text:
            self._line_is_open = not delta.text.endswith("\n")

    def explain(self, why: str) -> None:
        """Print why the request waits."""
        if self._last is None:
            explain_start(why)
        else:
            self._note(f"the answer broke off on lane {self._last.lane!r}: {why}")

    def end_line(self) -> None:
        """On a terminal, begin a new line unless the text ends with one, so that a message does not follow the text."""
        if self._line_is_open and self._is_terminal:
            _write("\n")
            self._line_is_open = False

    def _note(self, text: str) -> None:
        self.end_line()
        note(f"tokenlane: {text}", err=True)


def _explain_failover(last: TokenDelta, delta: TokenDelta) -> str:
    broke_off = f"the answer broke off on lane {last.lane!r}"
    if delta.restarted:
        return f"{broke_off}; it begins anew on lane {delta.lane!r}"
    return f"{broke_off}; lane {delta.lane!r} continues it"


def _write(text: str) -> None:
    # Bytes, since the terminal's encoding may lack characters of the answer.
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def _question(argument: str) -> str:
    source = "in the argument"
    text = _utf8(argument)
    if argument == "-":
        source = "on standard input"
        try:
            text = standard_input().decode()
        except UnicodeDecodeError:
            raise ConfigError("The question on standard input is not valid UTF-8: convert it first.") from None
    if not text or text.isspace():
        raise ConfigError(f"The question {source} is empty: pass a question, or `-` to read it from standard input.")
    return text


def _utf8(argument: str) -> str:
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise ConfigError("An argument is not valid UTF-8: convert it first.") from None
    return argument
