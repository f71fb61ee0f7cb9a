"""`tokenlane invite` prints the commands that connect another host to the pool."""

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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Print commands to paste on another host, for an agent and a worker. They contain the pool's password and keys."""
    url, keys = _public_url_and_keys(find_pool(redis))
    invitation = Invitation(url, pool_name(pool), keys)
    if as_json:
        lines = {"exports": invitation.exports, "agent": AGENT, "worker": WORKER}
        show_json({"redis": url, "pool": invitation.pool, "keys": keys.reveal(), **lines})
    else:
        typer.echo(invitation.text(), nl=False)


def _public_url_and_keys(redis: RedisSettings) -> tuple[str, KeyRing]:
    if not redis.url.startswith("unix://"):
        return redis.url, redis.keys
    up = running_up()
    if up is None or up.url != redis.url or up.public_url is None:
        raise ConfigError(
            "Other hosts cannot reach this pool: its Redis server listens only on a socket of this host. Start the "
            "pool with `tokenlane up --listen ADDRESS`, or name its address with --redis redis://HOST:6379."
        )
    return up.public_url, redis.keys if redis.keys.keys else socket_keys(redis.url)
