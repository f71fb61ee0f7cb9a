"""`tokenlane probe`: which model servers there are, and what to do if there is none."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from tokenlane.config.cli.plain_text import json_text, one_line
from tokenlane.config.exit_codes import NOTHING_FOUND
from tokenlane.config.settings.load import configured_back_ends
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.decide.no_candidate import GET_A_MODEL
from tokenlane.worker.discovery.model_servers import ModelServer, look_at_all
from tokenlane.worker.discovery.targets import Target, search_targets

from .get_a_model import offer

_SHOWN_MODELS = 3


def probe(
    endpoint: Annotated[
        list[str] | None, typer.Option(help="Look here instead of at the usual places; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say it as one JSON object, and ask nothing.")] = False,
) -> None:
    """Look for model servers that can chat. If there is none, ask what to do; not on a terminal, end with 3."""
    named = [Target(LaneSettings("probe", "openai", url)) for url in endpoint or ()]
    servers = asyncio.run(look_at_all(named or search_targets(configured_back_ends())))
    found = [server for server in servers if not server.problem]
    if as_json:
        facts = {"found": bool(found), "places": [_facts(server) for server in servers]}
        typer.echo(json_text(facts if found else {**facts, "advice": GET_A_MODEL}))
    else:
        typer.echo(table(servers))
    if found:
        return
    if as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        if not as_json:
            typer.echo(f"\nNo model server with a model that can chat was found. {GET_A_MODEL}")
        raise typer.Exit(NOTHING_FOUND)
    raise typer.Exit(offer())


def table(servers: list[ModelServer]) -> str:
    """What was seen, a line a place."""
    rows = [("ENDPOINT", "PROVIDER", "FOUND")]
    rows += [(one_line(seen.endpoint), seen.provider or "-", one_line(_verdict(seen))) for seen in servers]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}" for row in rows)


def _verdict(seen: ModelServer) -> str:
    if seen.problem:
        return f"no: {seen.problem}"
    more = f" and {len(seen.models) - _SHOWN_MODELS} more" if len(seen.models) > _SHOWN_MODELS else ""
    return f"yes: {', '.join(seen.models[:_SHOWN_MODELS])}{more}"


def _facts(seen: ModelServer) -> dict[str, object]:
    return {
        "endpoint": seen.endpoint,
        "provider": seen.provider,
        "found": seen.problem is None,
        "models": seen.models,
        "problem": seen.problem and seen.problem.document(),
    }
