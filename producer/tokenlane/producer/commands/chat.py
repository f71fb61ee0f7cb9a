"""`tokenlane chat`: asks one question and streams the answer to standard output."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from tokenlane.config.cli.plain_text import escaped, json_text, running_text
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.bounded_files import standard_input
from tokenlane.config.settings.load import provider_and_model
from tokenlane.producer.client import Client
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.requests import ChatOptions, Message

from .client_session import Model, Priority, Role, Timeout, client_session, explaining_wait, time_to_live_ms


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
    """Ask a question and stream the answer."""
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

    async def ask(client: Client) -> None:
        show = _delta_shower(as_json=as_json)
        async with client.chat(messages, role=role, **options) as stream:
            try:
                async with explaining_wait(stream):
                    async for delta in stream:
                        show(delta)
            except LlmError:
                if stream.text and not stream.text.endswith("\n") and not as_json and sys.stdout.isatty():
                    _write("\n")  # so that the error begins on a new line
                raise
            if as_json:
                usage = stream.usage.model_dump() if stream.usage else None
                _write(json_text({"request_id": stream.request_id, "usage": usage}) + "\n")
            elif not stream.text.endswith("\n"):
                _write("\n")

    client_session(ask, redis, pool, has_timeout=True)


def _delta_shower(*, as_json: bool) -> Callable[[TokenDelta], None]:
    if as_json:
        return _show_json
    if sys.stdout.isatty():
        return lambda delta: _write(running_text(delta.text))
    return lambda delta: _write(delta.text)


def _show_json(delta: TokenDelta) -> None:
    empty = set[str]() if delta.logprobs else {"logprobs"}
    _write(escaped(delta.model_dump_json(exclude_none=True, exclude=empty)) + "\n")


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
