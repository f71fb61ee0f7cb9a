"""`tokenlane simulate` runs a simulated model server."""

from __future__ import annotations

import asyncio
import errno
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

from tokenlane.benches.simulator import Model, Simulator, read_faults
from tokenlane.benches.simulator.model.models import parse_bytes
from tokenlane.config.cli.output import note
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.stop_signals import stop_event

T = TypeVar("T")


def _finite(pause_ms: float) -> float:
    if not math.isfinite(pause_ms):
        raise typer.BadParameter(f"{pause_ms} is not a finite number of milliseconds.")
    return pause_ms


def simulate(
    api: Annotated[
        Literal["ollama", "vllm", "lmstudio", "tgi", "llamacpp", "openai", "anthropic"],
        typer.Option(help="The server to imitate."),
    ] = "openai",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any free port.", min=0, max=65535)] = 0,
    socket: Annotated[Path | None, typer.Option(help="Unix socket to listen on, instead of a port.")] = None,
    ttft_ms: Annotated[float, typer.Option(help="Milliseconds to the first token.", min=0, callback=_finite)] = 0,
    itl_ms: Annotated[float, typer.Option(help="Milliseconds between tokens.", min=0, callback=_finite)] = 0,
    tokens: Annotated[int, typer.Option(help="Tokens in an answer.", min=0)] = 16,
    capacity: Annotated[int, typer.Option(help="How many requests the server answers at once.", min=1)] = 4,
    queue: Annotated[
        int | None,
        typer.Option(help="How many requests may wait; by default as many as the imitated server allows.", min=0),
    ] = None,
    models: Annotated[str, typer.Option(help="Models on disk: NAME or NAME=SIZE, separated by commas.")] = "sim",
    pullable: Annotated[
        str | None, typer.Option(help="Models that the server can pull, written as for --models.")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="Memory for models, such as 8GB; unlimited if unset.")] = None,
    load_ms: Annotated[float, typer.Option(help="Milliseconds to load a model.", min=0, callback=_finite)] = 0,
    pull_ms: Annotated[float, typer.Option(help="Milliseconds to pull a model.", min=0, callback=_finite)] = 0,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the text; without a seed the text is numbered words, `w0 w1 …`.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="API key that requests must send.")] = None,
    faults: Annotated[
        Path | None, typer.Option(help="TOML or JSON file with faults; docs/simulator.md describes it.")
    ] = None,
) -> None:
    """Simulate a model server until Ctrl-C. Prints the URL as a line of JSON."""
    served = _list("--models", models)
    if not served:
        raise ConfigError("--models is empty: name at least one model.")
    simulator = Simulator(
        api=api,
        host=host,
        port=port,
        socket=socket,
        ttft_ms=ttft_ms,
        itl_ms=itl_ms,
        tokens=tokens,
        capacity=capacity,
        queue=queue,
        models=served,
        pullable=[] if pullable is None else _list("--pullable", pullable),
        memory_bytes=None if memory is None else _read("--memory", parse_bytes, memory),
        load_ms=load_ms,
        pull_ms=pull_ms,
        seed=seed,
        api_key=api_key,
        faults=[] if faults is None else read_faults(faults),
    )
    try:
        asyncio.run(_serve(simulator))
    except (OSError, UnicodeError) as error:
        where = f"--host {host} --port {port}" if socket is None else f"--socket {socket}"
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        advice = " Name another port with --port, or 0 for a free one." if taken else ""
        raise ConfigError(f"The simulator cannot listen on {where}: {error}.{advice}") from error


def _list(option: str, text: str) -> list[Model]:
    return [_read(option, Model.parse, entry) for entry in text.split(",") if entry.strip()]


def _read(option: str, read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None


async def _serve(simulator: Simulator) -> None:
    with stop_event() as stopping:
        async with simulator:
            note(json.dumps({"url": simulator.url}))
            await stopping.wait()
