"""`tokenlane policy`: the pool's routes and limits, shown, compared with a file, and written from it."""

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
from tokenlane.config.settings.load import find_pool, pool_name, read
from tokenlane.config.settings.merged import Settings
from tokenlane.routing.decide.policy import Policy, PolicyChanged
from tokenlane.routing.decide.policy_file import as_toml, policy_of
from tokenlane.routing.decide.unknown_places import unknown_places
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot

from .pool_session import as_user_error, pool_session

policy = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

_File = Annotated[
    Path | None,
    typer.Argument(help="The llm.toml, - for standard input; default the one that is in use.", metavar="FILE"),
]


@policy.command()
def show(
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object, its revision in it.")] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Print the pool's policy, as it would stand in llm.toml."""
    there = pool_session(find_pool(redis), pool_name(pool), lambda opened: opened.policies.read())
    if as_json:
        show_json(there.model_dump())
    else:
        heading = f"# pool {pool_name(pool)}, revision {there.revision}\n"
        typer.echo(running_text(heading + as_toml(there)), nl=False)


@policy.command()
def diff(
    file: _File = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Show what `apply` would change. Exit code 1: something; 0: nothing."""
    wanted, name = _wanted(file)
    there = pool_session(find_pool(redis), pool_name(pool), lambda opened: opened.policies.read())
    changes = _changes(there, wanted, name)
    if as_json:
        typer.echo(json_text({"pool": pool_name(pool), "revision": there.revision, "changes": changes}))
    else:
        typer.echo(running_text("\n".join(changes) or f"The policy is {name}'s, revision {there.revision}."))
    if changes:
        raise typer.Exit(FAILED)


@policy.command()
def apply(
    file: _File = None,
    revision: Annotated[int | None, typer.Option(help="Only if the pool's policy has this revision.", min=0)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Make [roles] and [policy] of a file the pool's policy, whole: what the file leaves out is the default."""
    wanted, name = _wanted(file)

    async def compare_and_set(opened: Pool) -> tuple[Policy, int, list[str]]:
        seen = await take_snapshot(opened)
        there = await opened.policies.read()
        try:
            if revision is not None and revision != there.revision:
                raise PolicyChanged(f"the pool's policy has revision {there.revision}, not {revision}")
            now = there.revision if dry_run else await opened.policies.write(wanted, expected=there.revision)
        except PolicyChanged as error:
            raise as_user_error(error, f"{error}: see `tokenlane policy diff`, then apply again.") from error
        return there, now, [unknown.message for unknown in unknown_places(wanted, seen.views)]

    there, now, unknown = pool_session(find_pool(redis), pool_name(pool), compare_and_set)
    changes = _changes(there, wanted, name)
    if as_json:
        found = {"pool": pool_name(pool), "before": there.revision, "revision": now, "dry_run": dry_run}
        typer.echo(json_text({**found, "changes": changes, "warnings": unknown}))
        return
    typer.echo(running_text("".join(f"{line}\n" for line in changes)), nl=False)
    for message in unknown:
        typer.echo(running_text(f"warning: {message}"), err=True)
    if dry_run:
        typer.echo(f"pool {pool_name(pool)}: revision {there.revision} stays; this was a dry run", err=True)
    elif now == there.revision:
        typer.echo(f"pool {pool_name(pool)}: nothing to change, revision {now}", err=True)
    else:
        typer.echo(f"pool {pool_name(pool)}: revision {there.revision} -> {now}", err=True)


def _wanted(file: Path | None) -> tuple[Policy, str]:
    """The policy of the file, and the file's name."""
    if file is not None:
        take_command_line(config=file)
    settings: Settings = read()
    if settings.file is None and not settings.document.has_policy:
        raise ConfigError("There is no llm.toml: name one, or write one with `tokenlane config init`.")
    name = "standard input" if file == DASH else file or settings.file or "the configuration"
    if not settings.document.has_policy:
        raise ConfigError(f"{name} says nothing of the policy: it has neither [roles] nor [policy].")
    return policy_of(settings), str(name)


def _changes(there: Policy, wanted: Policy, name: str) -> list[str]:
    before, after = (as_toml(one).splitlines() for one in (there, wanted))
    return list(difflib.unified_diff(before, after, f"revision {there.revision}", name, lineterm=""))
