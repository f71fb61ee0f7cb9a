"""`tokenlane plugins`: checks a prompt plugin, and prints the interface that plugins implement."""

from __future__ import annotations

import json
import time
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from tokenlane.config.cli.output import show_json
from tokenlane.config.cli.plain_text import one_line
from tokenlane.config.exit_codes import ConfigError, UserError
from tokenlane.config.extras import install_advice
from tokenlane.config.host.bounded_files import read_file
from tokenlane.config.host.up_registry import data_dir
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.worker.hooks.plugin_broken import PluginBroken
from tokenlane.worker.hooks.prompt_plugins import FUEL, MOST_BYTES, digest_of
from tokenlane.worker.hooks.prompt_template import apply_output, prompt_input

_CALLS = 20

plugins = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@plugins.command()
def check(
    file: Annotated[Path, typer.Argument(help="The plugin, in the binary or the text format of WebAssembly.")],
    system: Annotated[str, typer.Option(help="The system message of the request to try.")] = "You are an assistant.",
    user: Annotated[str, typer.Option(help="The user's message of that request.")] = "Hello.",
    metadata: Annotated[str, typer.Option(help="The metadata of that request, a JSON object.")] = "{}",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Try a prompt plugin on a request, and print its hash for the policy. Exit code 1 if it cannot be used."""
    if find_spec("wasmtime") is None:
        raise UserError(f"Prompt plugins need wasmtime: {install_advice('plugins')}.")
    messages = [Message(role="system", content=system), Message(role="user", content=user)]
    request = ChatRequest(role="planner", messages=messages, metadata=_object(metadata))
    try:
        code = read_file(file, MOST_BYTES)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}.") from error
    try:
        changed, call_ms = _try(code, request)
    except PluginBroken as error:
        text = f" Its error: {one_line(error.detail)}" if error.detail else ""
        raise UserError(f"{file} cannot be used: it {error}.{text}") from None
    texts = {message.role: message.content for message in changed.messages}
    shown = {"system": texts.get("system"), "user": texts.get("user")}
    if as_json:
        show_json({"plugin": digest_of(code), "call_ms": round(call_ms, 3), **shown})
        return
    typer.echo(f"plugin    {digest_of(code)}\ncall      {call_ms:.2f} ms")
    for name, value in shown.items():
        typer.echo(f"{name:<10}{'none' if value is None else json.dumps(value, ensure_ascii=False)}")


@plugins.command()
def wit() -> None:
    """Print the interface that plugins implement, in WIT."""
    typer.echo(files("tokenlane.worker.hooks").joinpath("prompt.wit").read_text(encoding="utf-8"), nl=False)


def _try(code: bytes, request: ChatRequest) -> tuple[ChatRequest, float]:
    """The request as the plugin changes it, and the median time of a call in ms. The workers of this user on this host
    need not compile the plugin again."""
    from tokenlane.worker.hooks.sandbox import Sandbox  # loads wasmtime

    sandbox, text, times = Sandbox(data_dir() / "plugins"), prompt_input(request, "a-model"), []
    plugin = sandbox.compile(code)
    output = sandbox.call(plugin, text, FUEL)
    for _ in range(_CALLS):
        began = time.perf_counter()
        sandbox.call(plugin, text, FUEL)
        times.append(time.perf_counter() - began)
    return apply_output(output, request), 1000 * median(times)


def _object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ConfigError("--metadata is not a JSON object.")
    return value
