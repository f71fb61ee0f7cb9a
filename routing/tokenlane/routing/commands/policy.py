"""`tokenlane policy`: shows a pool's routes and limits, compares them with a file, and applies the file."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated

import typer

from tokenlane.config.cli.output import show_json
from tokenlane.config.cli.plain_text import json_text, running_text
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.exit_codes import FAILED, ConfigError
from tokenlane.config.host.paths import DASH
from tokenlane.config.settings.environment import take_command_line
from tokenlane.config.settings.load import pool_name, read
from tokenlane.config.settings.merged import Settings
from tokenlane.routing.decide.policy import Policy, PolicyChanged
from tokenlane.routing.decide.policy_file import as_toml, policy_of
from tokenlane.routing.decide.unknown_places import unknown_places
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot

from .pool_session import error_for_user, pool_session

policy = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

_File = Annotated[
    Path | None,
    typer.Argument(help="The llm.toml to read; `-` reads standard input. Default: the file in use.", metavar="FILE"),
]


@policy.command()
def show(
    as_json: Annotated[bool, typer.Option("--json", help="Print policy and revision as one JSON object.")] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Print the pool's policy in the form of llm.toml."""
    current = pool_session(redis, pool, lambda opened: opened.policies.read())
    if as_json:
        show_json(current.model_dump())
    else:
        heading = f"# pool {pool_name(pool)}, revision {current.revision}\n"
        typer.echo(running_text(heading + as_toml(current)), nl=False)


@policy.command()
def diff(
    file: _File = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Show what `apply` would change. Exit code 1 if it would change anything."""
    wanted, name = _wanted(file)

    async def compare(opened: Pool) -> tuple[Policy, list[str]]:
        return await opened.policies.read(), await _warnings(opened, wanted)

    current, warnings = pool_session(redis, pool, compare)
    changes = _changes(current, wanted, name)
    if as_json:
        facts = {"pool": pool_name(pool), "revision": current.revision}
        typer.echo(json_text({**facts, "changes": changes, "warnings": warnings}))
    else:
        typer.echo(running_text("\n".join(changes) or f"The policy, revision {current.revision}, equals {name}."))
        _print_warnings(warnings)
    if changes:
        raise typer.Exit(FAILED)


@policy.command()
def apply(
    file: _File = None,
    revision: Annotated[
        int | None, typer.Option(help="Apply only if this is the revision of the pool's policy.", min=0)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Replace the pool's policy with [roles], [aliases], [policy] and [failed] of a file. Omitted keys get defaults."""
    wanted, name = _wanted(file)

    async def compare_and_set(opened: Pool) -> tuple[Policy, int, list[str]]:
        warnings = await _warnings(opened, wanted)
        current = await opened.policies.read()
        try:
            if revision is not None and revision != current.revision:
                raise PolicyChanged(f"The pool's policy has revision {current.revision}, not {revision}.")
            now = current.revision if dry_run else await opened.policies.write(wanted, expected=current.revision)
        except PolicyChanged as error:
            raise error_for_user(error, f"{error.message} See `tokenlane policy diff`, then apply again.") from error
        return current, now, warnings

    current, now, warnings = pool_session(redis, pool, compare_and_set)
    changes = _changes(current, wanted, name)
    if as_json:
        facts = {"pool": pool_name(pool), "before": current.revision, "revision": now, "dry_run": dry_run}
        typer.echo(json_text({**facts, "changes": changes, "warnings": warnings}))
        return
    typer.echo(running_text("".join(f"{line}\n" for line in changes)), nl=False)
    _print_warnings(warnings)
    result = f"revision {current.revision} -> {now}"
    if now == current.revision:
        result = f"revision {now}, {'unchanged by this dry run' if dry_run else 'nothing to change'}"
    typer.echo(f"pool {pool_name(pool)}: {result}", err=True)


def _wanted(file: Path | None) -> tuple[Policy, str]:
    """The policy of the file, and the file's name."""
    if file is not None:
        take_command_line(config=file)
    settings: Settings = read()
    if settings.file is None and not settings.document.has_policy:
        raise ConfigError("No llm.toml was found: name one, or write one with `tokenlane config init`.")
    name = "standard input" if file == DASH else file or settings.file or "the configuration"
    if not settings.document.has_policy:
        raise ConfigError(f"{name} holds no policy: it has none of [roles], [aliases], [policy] and [failed].")
    return policy_of(settings), str(name)


async def _warnings(pool: Pool, wanted: Policy) -> list[str]:
    """A warning for each entry of a route that no lane of the pool matches, and for a policy that the pool refuses."""
    snapshot = await take_snapshot(pool)
    warnings = [unknown.message for unknown in unknown_places(wanted, snapshot.views)]
    if wanted.keep_payload and not snapshot.key_id:
        warnings.append("the pool has no key, so it refuses `keep_payload`: give it a key with `tokenlane key new`")
    return warnings


def _print_warnings(warnings: list[str]) -> None:
    for message in warnings:
        typer.echo(running_text(f"warning: {message}"), err=True)


def _changes(current: Policy, wanted: Policy, name: str) -> list[str]:
    before, after = (as_toml(policy).splitlines() for policy in (current, wanted))
    return list(difflib.unified_diff(before, after, f"revision {current.revision}", name, lineterm=""))
