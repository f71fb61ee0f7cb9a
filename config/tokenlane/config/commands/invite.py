"""`tokenlane invite`: the lines that let another host into the pool."""

from __future__ import annotations

from typing import Annotated

import typer

from tokenlane.config.cli.invitation import AGENT, WORKER, Invitation
from tokenlane.config.cli.output import show_json
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.pool_key_files import KeyRing, socket_keys
from tokenlane.config.host.up_registry import running_up
from tokenlane.config.settings.load import find_pool, pool_name
from tokenlane.config.settings.values import RedisSettings


def invite(
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Print the lines to paste on another host, for an agent and for a worker. They hold the password and the keys."""
    url, keys = _as_others_reach_it(find_pool(redis))
    invitation = Invitation(url, pool_name(pool), keys)
    if as_json:
        lines = {"exports": invitation.exports, "agent": AGENT, "worker": WORKER}
        show_json({"redis": url, "pool": invitation.pool, "keys": keys.reveal(), **lines})
    else:
        typer.echo(invitation.text(), nl=False)


def _as_others_reach_it(redis: RedisSettings) -> tuple[str, KeyRing]:
    if not redis.url.startswith("unix://"):
        return redis.url, redis.keys
    up = running_up()
    if up is None or up.url != redis.url or up.public_url is None:
        raise ConfigError(
            "This pool's Redis has a socket of this host, and no address for others: start it with "
            "`tokenlane up --listen HOST`, or name the address with --redis redis://…"
        )
    return up.public_url, redis.keys if redis.keys.keys else socket_keys(redis.url)
