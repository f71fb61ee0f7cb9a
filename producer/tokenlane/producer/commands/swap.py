"""`tokenlane models swap`: moves a role or a lane to another model once that model has answered."""

from __future__ import annotations

from typing import Annotated

import typer

from tokenlane.config.cli.output import note, show
from tokenlane.config.cli.plain_text import json_text
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.load import find_pool, pool_name
from tokenlane.producer.client import Client
from tokenlane.routing.commands import completion
from tokenlane.routing.store.pool import connect

from .client_session import client_session, time_to_live_ms
from .models import models
from .swap_steps import Swap, SwapStep

__all__ = ["models"]


@models.command()
def swap(
    target: Annotated[
        str,
        typer.Argument(
            help="The role, or the lane (`lane:NAME` if a role has the same name).",
            metavar="ROLE|LANE",
            autocompletion=completion.roles_and_lanes,
        ),
    ],
    to: Annotated[
        str | None, typer.Option(help="The model to swap to.", metavar="MODEL", autocompletion=completion.models)
    ] = None,
    back: Annotated[bool, typer.Option("--back", help="Undo the last swap instead.")] = False,
    unload_old: Annotated[
        bool, typer.Option("--unload-old", help="Unload the old model from lanes where no route leads to it any more.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Give up after this many seconds.", min=0.001)] = 600,
    as_json: Annotated[bool, typer.Option("--json", help="Print each step as a line of JSON.")] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Move a role or a lane to another model once that model has answered. No request fails."""
    if back == (to is not None):
        raise ConfigError("Name the model to swap to with --to MODEL, or undo the last swap with --back.")
    timeout_s = time_to_live_ms(timeout) / 1000
    moved = False

    def report(step: SwapStep) -> None:
        nonlocal moved
        moved = moved or step.step == "moved"
        if as_json:
            typer.echo(json_text(step.model_dump(exclude_none=True, exclude_defaults=True)))
        else:
            show(str(step))

    def explain(what: str) -> None:
        note(f"tokenlane: {what}", err=True)

    async def ask(client: Client) -> None:
        async with connect(find_pool(redis).url, pool_name(pool)) as opened:
            await Swap(client, opened, target, to, report, explain, timeout_s, unload_old).run()

    client_session(ask, redis, pool)
    if moved and not as_json:
        show(f"Undo this with `tokenlane models swap {target} --back`.")
