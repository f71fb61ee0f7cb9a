"""`tokenlane doctor`: checks a pool and its surroundings for common faults, and shows how to fix each of them."""

from __future__ import annotations

from typing import Annotated

import typer

from tokenlane.config.cli.output import SEVERITY_STYLES, Table, show, show_json
from tokenlane.config.cli.plain_text import one_line
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.exit_codes import FAILED, OK
from tokenlane.config.settings.environment import unknown_variables
from tokenlane.config.settings.load import find_pool, hook_settings, pool_name, read
from tokenlane.routing.watch.doctor import examine, examine_environment, examine_hooks
from tokenlane.routing.watch.finding import Finding

from .pool_session import pool_session

_SCHEMA_VERSION = 2
_STYLES = {**SEVERITY_STYLES, "unknown": "dim"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; docs/status.md describes its fields.")] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Check server, clock, key, lanes, versions, variables and hooks. Exit code 1 if a check fails."""
    found_here = (examine_environment(unknown_variables(read())), *examine_hooks(hook_settings()))
    findings = (*pool_session(redis, pool, examine), *found_here)
    name = pool_name(pool)
    if as_json:
        show_json({"v": _SCHEMA_VERSION, "pool": name, "findings": [finding.document() for finding in findings]})
    else:
        show(f"pool {name} at {find_pool(redis).safe_url}", _table(findings), *_details(findings))
    raise typer.Exit(FAILED if any(finding.severity == "fail" for finding in findings) else OK)


def _table(findings: tuple[Finding, ...]) -> Table:
    rows = [(finding.severity, finding.code, finding.subject, finding.observed) for finding in findings]
    return Table(("STATUS", "CHECK", "SUBJECT", "RESULT"), rows, _STYLES)


def _details(findings: tuple[Finding, ...]) -> list[str]:
    """For each check that did not pass: the result, why it matters, and what to do."""
    return [
        f"{finding.severity}: {one_line(f'{finding.code}: {finding.observed}')}\n"
        f"  why: {finding.code.means}\n  fix: {one_line(finding.advice)}"
        for finding in findings
        if finding.severity != "ok" and finding.advice
    ]
