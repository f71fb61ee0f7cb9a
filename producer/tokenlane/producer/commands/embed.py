"""`tokenlane embed`: turns texts into vectors, and prints them to standard output."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tokenlane.config.cli.plain_text import json_text, one_line
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.bounded_files import standard_input
from tokenlane.config.settings.load import provider_and_model
from tokenlane.producer.client import Client
from tokenlane.producer.embeddings import Embeddings, EmbedOptions
from tokenlane.producer.embeddings import embed as embed_texts

from .client_session import Model, Priority, Role, Timeout, client_session, explaining_wait, time_to_live_ms

_MAX_INPUT_BYTES = 256 * 1024 * 1024
"""The limit of standard input, since all texts and their vectors are held in memory."""


def embed(
    texts: Annotated[list[str], typer.Argument(help="The texts; `-` reads them from standard input, one per line.")],
    role: Role = "default",
    model: Model = None,
    dimensions: Annotated[
        int | None, typer.Option(help="Ask for vectors of this many numbers; fail if the model gives others.", min=1)
    ] = None,
    no_fallback: Annotated[
        bool, typer.Option("--no-fallback", help="Fail rather than use the pool's fallback model.")
    ] = False,
    priority: Priority = "normal",
    timeout: Timeout = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with model and lane.")] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Turn texts into vectors, and print each as a line of JSON: a list of numbers."""
    provider, other_model = provider_and_model()
    options: EmbedOptions = {
        "provider": provider,
        "model": model or other_model,
        "dimensions": dimensions,
        "fallback": "error" if no_fallback else None,
        "priority": priority,
        "time_to_live_ms": time_to_live_ms(timeout),
    }
    inputs = _standard_input_lines() if texts == ["-"] else texts

    async def ask(client: Client) -> Embeddings:
        return await embed_texts(
            client.link, inputs, options, role=role, agent=client.agent, while_open=explaining_wait
        )

    result = client_session(ask, redis, pool, has_timeout=True)
    vectors = [
        [float(f"{number:.9g}") for number in vector] for vector in result.vectors
    ]  # a float32 needs nine digits
    if as_json:
        typer.echo(
            json_text(
                {
                    "request_id": result.request_id,
                    "model": result.model,
                    "lane": result.lane,
                    "dimensions": result.dimensions,
                    "is_fallback": result.is_fallback,
                    "usage": result.usage.model_dump(),
                    "vectors": vectors,
                }
            )
        )
        return
    for vector in vectors:
        typer.echo(json.dumps(vector))
    source = "the fallback model, since no lane can embed" if result.is_fallback else f"lane {result.lane}"
    typer.echo(one_line(f"{result.model}, {result.dimensions} dimensions, from {source}"), err=True)


def _standard_input_lines() -> list[str]:
    try:
        return standard_input(_MAX_INPUT_BYTES).decode().splitlines()
    except UnicodeDecodeError:
        raise ConfigError("The texts on standard input are not valid UTF-8: convert them first.") from None
