"""`tokenlane doctor`: everything around a pool that is often wrong, and what to do about it."""

from __future__ import annotations

from typing import Annotated

import typer

from tokenlane.config.cli.output import Table, show, show_json
from tokenlane.config.cli.plain_text import one_line
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.exit_codes import FAILED, OK
from tokenlane.config.settings.environment import unknown_variables
from tokenlane.config.settings.load import find_pool, pool_name, read
from tokenlane.routing.watch.doctor import examine, examine_environment
from tokenlane.routing.watch.finding import Finding

from .pool_session import pool_session

_SCHEMA_VERSION = 2
_LOOKS = {"ok": "green", "warn": "yellow", "fail": "bold red", "unknown": "dim"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON; docs/status.md says what each field is.")] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Check server, clock, key, lanes, versions and variables; exit code 1 if a check fails."""
    where, name = find_pool(redis), pool_name(pool)
    findings = (*pool_session(where, name, examine), examine_environment(unknown_variables(read())))
    if as_json:
        show_json({"v": _SCHEMA_VERSION, "pool": name, "findings": [finding.document() for finding in findings]})
    else:
        show(f"pool {name} at {where.safe_url}", _table(findings), *_details(findings))
    raise typer.Exit(FAILED if any(finding.severity == "fail" for finding in findings) else OK)


def _table(findings: tuple[Finding, ...]) -> Table:
    rows = [(finding.severity, finding.code, finding.subject, finding.found) for finding in findings]
    return Table(("STATUS", "CHECK", "OF", "FOUND"), rows, _LOOKS)


def _details(findings: tuple[Finding, ...]) -> list[str]:
    """What is not well, with what it means and what to do."""
    return [
        f"{finding.severity}: {one_line(f'{finding.code}: {finding.found}')}\n"
        f"  means: {finding.code.means}\n  do:    {one_line(finding.advice)}"
        for finding in findings
        if finding.severity != "ok" and finding.advice
    ]
