"""`tokenlane chat`: one question, the answer streamed to standard output."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Literal

import typer

from tokenlane.config.cli.plain_text import escaped, json_text, running_text
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.bounded_files import standard_input
from tokenlane.config.settings.load import provider_and_model
from tokenlane.producer.client import Client
from tokenlane.routing.commands import completion
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.requests import ChatOptions, Message

from .client_session import carry_out, in_milliseconds, telling_why


def chat(
    question: Annotated[str, typer.Argument(help="What to ask; - reads it from standard input.")],
    role: Annotated[
        str, typer.Option(help="The role to ask as: what the pool routes by.", autocompletion=completion.roles)
    ] = "default",
    model: Annotated[
        str | None, typer.Option(help="The model that is to answer.", autocompletion=completion.models)
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message to go before the question.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="The longest answer, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature.")] = None,
    priority: Annotated[Literal["high", "normal", "low"], typer.Option(help="Who is served first.")] = "normal",
    timeout: Annotated[float | None, typer.Option(help="Give up after so many seconds.", min=0.001)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a delta, then one with the usage.")] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Ask a question and stream the answer."""
    messages = [Message(role="system", content=_text(system))] if system is not None else []
    messages.append(Message(role="user", content=_asked(question)))
    options: ChatOptions = {"priority": priority}
    provider, other_model = provider_and_model()
    if provider is not None:
        options["provider"] = provider
    model = model or other_model
    if model is not None:
        options["model"] = model
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    if temperature is not None:
        options["temperature"] = temperature
    if timeout is not None:
        options["time_to_live_ms"] = in_milliseconds(timeout)
    show = _show_json if as_json else _show_on_terminal if sys.stdout.isatty() else _show_text
    carry_out(lambda client: _ask(client, messages, role, options, show, as_json=as_json), redis, pool)


async def _ask(
    client: Client,
    messages: list[Message],
    role: str,
    options: ChatOptions,
    show: Callable[[TokenDelta], None],
    *,
    as_json: bool,
) -> None:
    async with client.chat(messages, role=role, **options) as stream:
        async with telling_why(stream):
            async for delta in stream:
                show(delta)
        if as_json:
            usage = stream.usage.model_dump() if stream.usage else None
            _write(json_text({"request_id": stream.request_id, "usage": usage}) + "\n")
        elif not stream.text.endswith("\n"):
            _write("\n")


def _show_text(delta: TokenDelta) -> None:
    _write(delta.text)


def _show_on_terminal(delta: TokenDelta) -> None:
    _write(running_text(delta.text))


def _show_json(delta: TokenDelta) -> None:
    unsaid = set[str]() if delta.logprobs else {"logprobs"}  # nobody asked for them
    _write(escaped(delta.model_dump_json(exclude_none=True, exclude=unsaid)) + "\n")


def _write(text: str) -> None:
    # Bytes, since what a model says need not be in the terminal's encoding.
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def _asked(question: str) -> str:
    text = _read() if question == "-" else _text(question)
    if not text or text.isspace():
        where = "on standard input" if question == "-" else "in the argument"
        raise ConfigError(f"There is no question {where}: give one, or - to read it from standard input.")
    return text


def _read() -> str:
    try:
        return standard_input().decode()
    except UnicodeDecodeError:
        raise ConfigError("The question on standard input is not UTF-8: convert it first.") from None


def _text(argument: str) -> str:
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise ConfigError("An argument is not UTF-8: convert it first.") from None
    return argument
