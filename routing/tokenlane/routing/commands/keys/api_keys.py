"""`tokenlane keys`: adds, lists and revokes the API keys of HTTP clients."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

import typer

from tokenlane.config.cli.output import Table, show, show_json
from tokenlane.config.cli.plain_text import one_line
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.cli.time_spans import time_span
from tokenlane.config.exit_codes import ConfigError, UserError
from tokenlane.config.settings.load import pool_name
from tokenlane.config.settings.values import NAME_RULE, is_name
from tokenlane.routing.commands import completion
from tokenlane.routing.commands.pool_session import pool_session
from tokenlane.routing.contract.wire import Priority
from tokenlane.routing.store.access.api_key import ApiKey, ApiKeyTable, QuotaUse
from tokenlane.routing.store.access.remembered import FRESH_S
from tokenlane.routing.store.pool import Pool

keys = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

_LONGEST_MS = 100 * 365 * 86_400_000

_Name = Annotated[str, typer.Argument(help="The key's name.", metavar="NAME")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@keys.command()
def add(
    name: _Name,
    agent: Annotated[
        str | None, typer.Option(help="The agent that asks with the key. Default: the key's name.", metavar="NAME")
    ] = None,
    role: Annotated[
        str | None,
        typer.Option(help="The role of requests that name none.", metavar="ROLE", autocompletion=completion.roles),
    ] = None,
    priority: Annotated[
        Priority, typer.Option(help="The priority of requests that name none, and the highest they may ask for.")
    ] = "normal",
    in_flight: Annotated[
        int | None, typer.Option(help="How many requests the key may have at once, waiting and running.", min=1)
    ] = None,
    expires: Annotated[
        int | None,
        typer.Option(
            help="How long the key is valid, such as 90d or 12h. Default: until it is revoked.",
            metavar="TIME",
            parser=time_span,
        ),
    ] = None,
    as_json: _AsJson = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Add a key, and print its secret, which is shown only now."""
    created_s = int(time.time())
    key = ApiKey(
        name=_checked(name, "NAME"),
        agent=_checked(name if agent is None else agent, "--agent"),
        role=None if role is None else _checked(role, "--role"),
        priority=priority,
        in_flight=in_flight,
        created_s=created_s,
        expires_s=None if expires is None else created_s + _seconds(expires),
    )
    secret = pool_session(redis, pool, lambda opened: opened.api_keys.add(key))
    if as_json:
        show_json({"v": 1, "pool": pool_name(pool), "key": key.model_dump(), "secret": secret})
        return
    typer.echo(secret)
    typer.echo(
        f"Key {name} of agent {key.agent} is valid {_until(key)}. Clients send its secret as their API key; it is not "
        "shown again.",
        err=True,
    )


@keys.command()
def ls(as_json: _AsJson = False, redis: RedisUrl = None, pool: PoolName = None) -> None:
    """List the keys and what they use of their limits, without their secrets, which the pool does not hold."""

    async def ask(opened: Pool) -> tuple[ApiKeyTable, tuple[QuotaUse, ...]]:
        table = await opened.api_keys.read()
        return table, await opened.api_keys.quotas(table)

    table, quotas = pool_session(redis, pool, ask)
    used = {quota.name: quota.in_flight for quota in quotas}
    now_s = time.time()
    if as_json:
        documents = [
            {**key.model_dump(), "expired": key.is_expired(now_s), "used": used.get(key.name)} for key in table.listed
        ]
        show_json({"v": 1, "pool": pool_name(pool), "keys": documents, "unreadable": table.unreadable})
        return
    if table.listed:
        rows = [[cell(key, used.get(key.name)) for cell in _COLUMNS.values()] for key in table.listed]
        show(Table(tuple(_COLUMNS), rows, {}, splits=True))
    elif not table:
        typer.echo(f"Pool {pool_name(pool)} has no API keys: add one with `tokenlane keys add NAME`.")
    for name in table.unreadable:
        typer.echo(
            f"warning: this version cannot read key {one_line(name)}, and gateways refuse it: update tokenlane, or "
            "revoke the key and add it again",
            err=True,
        )


@keys.command()
def revoke(name: _Name, as_json: _AsJson = False, redis: RedisUrl = None, pool: PoolName = None) -> None:
    """Delete a key: gateways refuse it within a few seconds. Requests that it has sent go on."""

    async def ask(opened: Pool) -> ApiKeyTable | None:
        return None if await opened.api_keys.revoke(name) else await opened.api_keys.read()

    others = pool_session(redis, pool, ask)
    if others is not None:
        names = ", ".join([*(key.name for key in others.listed), *others.unreadable])
        raise UserError(f"Pool {pool_name(pool)} has no API key {name!r}. Its keys: {one_line(names) or 'none'}.")
    if as_json:
        show_json({"v": 1, "pool": pool_name(pool), "revoked": name})
    else:
        show(f"Key {name} is revoked. Gateways refuse it after at most {FRESH_S:g} s.")


def _checked(name: str, what: str) -> str:
    if not is_name(name):
        raise ConfigError(f"{what}: {name!r} is not a name: {NAME_RULE}.")
    return name


def _seconds(expires_ms: int) -> int:
    if not 1_000 <= expires_ms <= _LONGEST_MS:
        raise ConfigError("--expires must be from 1s to 36500d.")
    return expires_ms // 1_000


def _time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _until(key: ApiKey) -> str:
    return "until it is revoked" if key.expires_s is None else f"until {_time(key.expires_s)}"


def _in_flight(key: ApiKey, used: int | None) -> str:
    return "-" if key.in_flight is None else f"{used}/{key.in_flight}"


def _expiry(key: ApiKey) -> str:
    if key.expires_s is None:
        return "-"
    return f"{'expired ' if key.is_expired(time.time()) else ''}{_time(key.expires_s)}"


_COLUMNS: dict[str, Callable[[ApiKey, int | None], str]] = {
    "KEY": lambda key, _: key.name,
    "AGENT": lambda key, _: key.agent,
    "ROLE": lambda key, _: key.role or "-",
    "PRIORITY": lambda key, _: key.priority,
    "IN FLIGHT": _in_flight,
    "ADDED": lambda key, _: _time(key.created_s),
    "EXPIRES": lambda key, _: _expiry(key),
}
