"""`tokenlane launch`: starts a coding agent that asks the pool through a gateway."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import sys
from asyncio.subprocess import Process
from typing import Annotated, Literal

import typer

from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.child_processes import start_or_kill, wait_or_kill
from tokenlane.config.host.stop_signals import on_stop_signals
from tokenlane.config.settings.environment import PREFIX, child_environment, secret_in
from tokenlane.producer.gateway.access.addressee import ROLE_PREFIX
from tokenlane.producer.gateway.coding_agents import CODING_AGENTS, CodingAgent, Endpoint

from .session import gateway_session

Tool = Literal["claude", "codex", "opencode", "aider"]
_KEY = f"{PREFIX}GATEWAY_KEY"
_STOP_S = 10.0
_ANY_KEY = "tokenlane"
"""What stands for a key where the gateway asks for none: coding agents refuse to start without one."""


def launch(
    tool: Annotated[Tool, typer.Argument(help="The coding agent.", show_default=False)],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Arguments for the coding agent, after --.", show_default=False)
    ] = None,
    role: Annotated[str, typer.Option(help="The role by which the pool routes its requests.")] = "coder",
    model: Annotated[str | None, typer.Option(help="The model to ask for, in place of the role's.")] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="A gateway that runs, such as http://gpu-hub:4000.")
    ] = None,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Start a coding agent that asks the pool: `tokenlane launch claude -- -p "What does this repository do?"`.

    Without --url a gateway runs on this host as long as the coding agent. The variable TOKENLANE_GATEWAY_KEY has the
    API key of a gateway that asks for one.
    """
    agent = CODING_AGENTS[tool]
    program = shutil.which(agent.program)
    if program is None:
        raise ConfigError(f"There is no program {agent.program!r} in PATH: install it, for example: {agent.install}")
    key = secret_in(_KEY)
    name = model or f"{ROLE_PREFIX}{role}"

    async def run(at: str) -> int:
        to = Endpoint(at.rstrip("/").removesuffix("/v1"), key.get_secret_value() if key else _ANY_KEY, name)
        return await _run(agent, program, to, arguments or [])

    if url is not None:
        code = asyncio.run(run(url))
    else:
        logging.disable()  # the coding agent has the terminal
        code = gateway_session(redis, pool, ("127.0.0.1", 0), run)
    raise typer.Exit(code)


async def _run(agent: CodingAgent, program: str, to: Endpoint, arguments: list[str]) -> int:
    """Run the coding agent in this terminal, and return its exit code."""
    setup = agent.set_up(to)
    environment = {name: value for name, value in child_environment().items() if name not in setup.unset}
    process: Process = await start_or_kill(
        asyncio.create_subprocess_exec(program, *setup.arguments, *arguments, env={**environment, **setup.variables})
    )
    try:
        with on_stop_signals(lambda number: _pass_on(process, number)):
            code = await process.wait()
    finally:
        await wait_or_kill(process, _STOP_S)
    return code if code >= 0 else 128 - code


def _pass_on(process: Process, number: signal.Signals) -> None:
    """Send the coding agent a signal, except a terminal's Ctrl-C, which reaches both."""
    if number is not signal.SIGINT or not sys.stdin.isatty():
        process.send_signal(number)
