"""`tokenlane simulate`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import signal
import sys
from typing import Annotated, Literal

import typer
from pydantic import TypeAdapter, ValidationError

from tokenlane.benches.script import Script
from tokenlane.benches.simulator import Simulator
from tokenlane.config.exits import ConfigError

__all__ = ["simulate"]


def simulate(
    api: Annotated[Literal["openai", "ollama"], typer.Option(help="Whose dialect to speak.")] = "openai",
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 0,
    ttft_ms: Annotated[float, typer.Option(help="Milliseconds to the first token.", min=0)] = 0,
    itl_ms: Annotated[float, typer.Option(help="Milliseconds between tokens.", min=0)] = 0,
    tokens: Annotated[int, typer.Option(help="Tokens in an answer.", min=0)] = 16,
    capacity: Annotated[int, typer.Option(help="Requests answered at once.", min=1)] = 4,
    models: Annotated[str, typer.Option(help="Models served, separated by commas.")] = "sim",
    faults: Annotated[str, typer.Option(help="JSON list of what the first requests meet.")] = "[]",
) -> None:
    """Imitate a model server until Ctrl-C; one line of JSON tells its URL."""
    try:
        scripts = TypeAdapter(list[Script]).validate_json(faults)
    except ValidationError as error:
        raise ConfigError(f"--faults is not a list of scripts: {error}") from None
    served = [name.strip() for name in models.split(",") if name.strip()]
    if not served:
        raise ConfigError("--models names no model.")
    simulator = Simulator(
        api=api,
        port=port,
        ttft_ms=ttft_ms,
        itl_ms=itl_ms,
        tokens=tokens,
        capacity=capacity,
        models=served,
        faults=scripts,
    )
    try:
        asyncio.run(_serve(simulator))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise ConfigError(f"Port {port} is taken: name another with --port, or 0 for a free one.") from error


async def _serve(simulator: Simulator) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
    async with simulator:
        sys.stdout.write(json.dumps({"url": simulator.url}) + "\n")
        sys.stdout.flush()
        await stop.wait()
