"""`tokenlane doctor`: everything around a pool that is often wrong, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tokenlane.config.cli.output import Table, show, show_json
from tokenlane.config.cli.plain_text import one_line
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.exit_codes import FAILED, OK
from tokenlane.config.settings.environment import unknown_variables
from tokenlane.config.settings.load import find_pool, pool_name, read
from tokenlane.routing.watch.doctor import Check, check_environment, examine

from .pool_session import pool_session

__all__ = ["doctor"]

_SCHEMA_VERSION = 1
_LOOKS = {"ok": "green", "warn": "yellow", "fail": "bold red", "unknown": "dim"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON; docs/status.md says what each field is.")] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Check server, clock, key, lanes, versions and variables; exit code 1 if a check fails."""
    where, name = find_pool(redis), pool_name(pool)
    checks = (*pool_session(where, name, examine), *check_environment(unknown_variables(read())))
    if as_json:
        show_json({"v": _SCHEMA_VERSION, "pool": name, "checks": [asdict(check) for check in checks]})
    else:
        show(f"pool {name} at {where.safe_url}", _table(checks), *_advice(checks))
    raise typer.Exit(FAILED if any(check.status == "fail" for check in checks) else OK)


def _table(checks: tuple[Check, ...]) -> Table:
    rows = [(check.status, check.name, check.found) for check in checks]
    return Table(("STATUS", "CHECK", "FOUND"), rows, _LOOKS)


def _advice(checks: tuple[Check, ...]) -> list[str]:
    """What is not well, with what it means and what to do."""
    return [
        f"{check.status}: {one_line(f'{check.name}: {check.found}')}\n"
        f"  means: {check.means}\n  do:    {one_line(check.advice)}"
        for check in checks
        if check.status != "ok" and check.advice
    ]
