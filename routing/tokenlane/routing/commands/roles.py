"""`tokenlane roles`: pauses and resumes a role, and cancels its waiting requests."""

from __future__ import annotations

from typing import Annotated

import typer

from tokenlane.config.cli.output import show, show_json
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.cli.sentences import counted
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.load import pool_name
from tokenlane.config.settings.validation_messages import did_you_mean
from tokenlane.config.settings.values import NAME_RULE, is_name
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.snapshot import Snapshot

from . import completion
from .pool_session import pool_session
from .requests import confirm

roles = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

_Role = Annotated[str, typer.Argument(help="The role.", metavar="ROLE", autocompletion=completion.roles)]
_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@roles.command()
def pause(role: _Role, as_json: _AsJson = False, redis: RedisUrl = None, pool: PoolName = None) -> None:
    """Let the role's requests wait until `resume`. The pool still accepts them, and requests that run go on."""
    _check_name(role)

    async def ask(opened: Pool) -> tuple[bool, Snapshot]:
        return await opened.pause_role(role), await take_snapshot(opened)

    changed, snapshot = pool_session(redis, pool, ask)
    names = sorted({*snapshot.policy.roles, *(status.role for status in snapshot.roles)})
    is_known = role in names
    if as_json:
        facts = {"role": role, "paused": True, "changed": changed, "known": is_known}
        show_json({"v": 1, "pool": snapshot.pool, **facts})
        return
    already = "" if changed else "already "
    show(f"Role {role} is {already}paused: its requests wait until `tokenlane roles resume {role}`.")
    if not is_known:  # agents may use any role, so this may be the right name
        typer.echo(
            f"Neither the policy nor a request of the last minute names role {role!r}.{did_you_mean(role, names)}",
            err=True,
        )


@roles.command()
def resume(role: _Role, as_json: _AsJson = False, redis: RedisUrl = None, pool: PoolName = None) -> None:
    """Let the requests of a paused role start again."""
    _check_name(role)
    changed = pool_session(redis, pool, lambda opened: opened.resume_role(role))
    if as_json:
        show_json({"v": 1, "pool": pool_name(pool), "role": role, "paused": False, "changed": changed})
    else:
        show(f"Role {role} {'is resumed: its requests start again' if changed else 'was not paused'}.")


@roles.command()
def purge(
    role: _Role,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: _AsJson = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Cancel all requests of a role that wait or are delayed. Their agents get the error `cancelled`."""
    _check_name(role)
    live = pool_session(redis, pool, lambda opened: opened.records.live())
    ids = [record.id for record in live if record.role == role and record.state in ("waiting", "delayed")]
    if ids and not yes:
        confirm("Cancel", f"{counted(len(ids), 'request', 'requests')} of role {role!r}")
    cancelled = pool_session(redis, pool, lambda opened: opened.requests.purge(ids)) if ids else 0
    if as_json:
        show_json({"v": 1, "pool": pool_name(pool), "role": role, "cancelled": cancelled})
    else:
        show(f"{counted(cancelled, 'waiting request', 'waiting requests')} of role {role} cancelled.")


def _check_name(role: str) -> None:
    if not is_name(role):
        raise ConfigError(f"{role!r} is not a role's name: {NAME_RULE}.")
