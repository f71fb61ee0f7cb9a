"""`tokenlane embed`: texts to vectors on standard output."""

from __future__ import annotations

import json
from array import array
from typing import Annotated, Literal

import typer

from tokenlane.config.cli.plain_text import json_text, one_line
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.bounded_files import standard_input
from tokenlane.config.settings.load import provider_and_model
from tokenlane.producer.client import Client
from tokenlane.producer.embeddings import Embeddings, EmbedOptions
from tokenlane.producer.embeddings import embed as embed_texts
from tokenlane.routing.commands import completion

from .client_session import carry_out, in_milliseconds, telling_why

_MOST_BYTES = 256 * 1024 * 1024
"""Of texts on standard input; all of them are held in memory, and their vectors too."""


def embed(
    texts: Annotated[list[str], typer.Argument(help="Texts; - reads them from standard input, one a line.")],
    role: Annotated[
        str, typer.Option(help="The role to ask as: what the pool routes by.", autocompletion=completion.roles)
    ] = "default",
    model: Annotated[
        str | None, typer.Option(help="The model that is to embed.", autocompletion=completion.models)
    ] = None,
    dimensions: Annotated[int | None, typer.Option(help="Numbers a vector must have.", min=1)] = None,
    no_fallback: Annotated[bool, typer.Option("--no-fallback", help="Not by the small fallback model.")] = False,
    priority: Annotated[Literal["high", "normal", "low"], typer.Option(help="Who is served first.")] = "normal",
    timeout: Annotated[float | None, typer.Option(help="Give up after so many seconds.", min=0.001)] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object, with the vectors and who made them.")
    ] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Turn texts into vectors, one a line, as JSON lists of numbers."""
    provider, other_model = provider_and_model()
    options: EmbedOptions = {
        "provider": provider,
        "model": model or other_model,
        "dimensions": dimensions,
        "fallback": "error" if no_fallback else None,
        "priority": priority,
    }
    if timeout is not None:
        options["time_to_live_ms"] = in_milliseconds(timeout)
    inputs = _lines() if texts == ["-"] else texts

    async def ask(client: Client) -> Embeddings:
        return await embed_texts(client.link, inputs, options, role=role, agent=client.agent, meanwhile=telling_why)

    found = carry_out(ask, redis, pool)
    if as_json:
        typer.echo(json_text(_document(found)))
        return
    for vector in found.vectors:
        typer.echo(json.dumps(_numbers(vector)))
    who = "the fallback model, since no lane can embed" if found.is_fallback else f"lane {found.lane}"
    typer.echo(one_line(f"{found.model}, {found.dimensions} dimensions, {who}"), err=True)


def _document(found: Embeddings) -> dict[str, object]:
    return {
        "request_id": found.request_id,
        "model": found.model,
        "lane": found.lane,
        "dimensions": found.dimensions,
        "is_fallback": found.is_fallback,
        "usage": found.usage.model_dump(),
        "vectors": [_numbers(vector) for vector in found.vectors],
    }


def _numbers(vector: array[float]) -> list[float]:
    """The numbers, with as many digits as a float32 has."""
    return [float(f"{number:.9g}") for number in vector]


def _lines() -> list[str]:
    try:
        return standard_input(_MOST_BYTES).decode().splitlines()
    except UnicodeDecodeError:
        raise ConfigError("The texts on standard input are not UTF-8: convert them first.") from None
