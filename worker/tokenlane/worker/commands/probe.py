"""`tokenlane probe`: looks for model servers, and shows how to get one if none is found."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import Annotated

import typer

from tokenlane.config.cli.output import Table, show
from tokenlane.config.cli.plain_text import json_text
from tokenlane.config.exit_codes import NOTHING_FOUND
from tokenlane.config.settings.load import configured_model_servers
from tokenlane.worker.discovery.model_servers import ModelServer, probe_targets
from tokenlane.worker.discovery.targets import named_targets, search_targets

from .get_a_model import get_a_model

_SHOWN_MODELS = 3

_GET_A_MODEL = """\
Do one of these:
  - Install Ollama (https://ollama.com/download, or let `tokenlane probe` do it) and run `ollama pull MODEL`;
    or start vLLM, LM Studio, TGI or llama.cpp with a chat model.
  - Use a remote OpenAI-compatible endpoint, with these lines in llm.toml:
        [defaults]
        provider = "openai"
        model = "MODEL"
        [openai]
        endpoint = "https://HOST"
        api_key_env = "NAME_OF_THE_KEYS_VARIABLE"
  - Use the built-in toy model, to try tokenlane without a real model: --provider builtin
Then serve the model: start a new pool with `tokenlane up`, or join a running pool with `tokenlane worker`."""


def probe(
    endpoint: Annotated[
        list[str] | None,
        typer.Option(help="Look only at this URL; may be repeated. Default: configured endpoints and the usual ports."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and ask nothing.")] = False,
) -> None:
    """Look for model servers that can chat. If there are none, offer help on a terminal, or exit with code 3."""
    targets = named_targets(endpoint or ()) or search_targets(configured_model_servers())
    servers = asyncio.run(probe_targets(replace(target, accepts_unknown=True) for target in targets))
    configured = {server.endpoint for target, server in zip(targets, servers, strict=True) if target.provider}
    works = any(server.problem is None for server in servers)
    if as_json:
        facts = {"found": works, "places": [_facts(server) for server in servers]}
        typer.echo(json_text(facts if works else {**facts, "advice": _GET_A_MODEL}))
    else:
        show(_table(servers, configured))
    if works:
        return
    if as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        if not as_json:
            typer.echo(f"\nNo model server with a model that can chat was found. {_GET_A_MODEL}")
        raise typer.Exit(NOTHING_FOUND)
    raise typer.Exit(get_a_model())


def _table(servers: list[ModelServer], configured: set[str]) -> Table:
    rows = [
        (server.endpoint, server.provider or "-", _verdict(server, is_configured=server.endpoint in configured))
        for server in servers
    ]
    return Table(("ENDPOINT", "PROVIDER", "CAN CHAT"), rows, {})


def _verdict(server: ModelServer, *, is_configured: bool) -> str:
    if server.problem:
        return f"no: {server.problem}"
    more = f" and {len(server.models) - _SHOWN_MODELS} more" if len(server.models) > _SHOWN_MODELS else ""
    # `up` and `worker` do not choose a server whose kind they do not recognise.
    must_be_named = server.provider == "openai" and not is_configured
    use = f" (to serve it, name --provider openai --endpoint {server.endpoint})" if must_be_named else ""
    return f"yes: {', '.join(server.models[:_SHOWN_MODELS])}{more}{use}"


def _facts(server: ModelServer) -> dict[str, object]:
    return {
        "endpoint": server.endpoint,
        "provider": server.provider,
        "found": server.problem is None,
        "models": server.models,
        "problem": server.problem and server.problem.document(),
    }
