"""Offers ways to get a model when `probe` finds none. It runs on a terminal, and asks before it runs or writes
anything."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

import typer

from tokenlane.config.cli.plain_text import escaped, one_line
from tokenlane.config.exit_codes import FAILED, OK, UserError
from tokenlane.config.settings.environment import secret_in
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import LlmError
from tokenlane.worker.builtin import MODEL_NAME
from tokenlane.worker.discovery.model_servers import ModelServer, generate_token, probe_target
from tokenlane.worker.discovery.targets import Target

_SCRIPT = "install_ollama.sh"
_SHOWN_MODELS = 20
_CHOICES = f"""
No model server with a model that can chat was found. There are three ways to get one:
  1  install Ollama on this host, for this user only (the script is shown before it runs)
  2  use a remote OpenAI-compatible endpoint
  3  use the built-in model, {MODEL_NAME}: a toy to try things out
  4  none of these
"""


def get_a_model() -> int:
    """Ask the user for a choice, and carry it out. Returns the exit code."""
    typer.echo(_CHOICES)
    choices: dict[str, Callable[[], int]] = {"1": _install, "2": _use_remote, "3": _use_builtin, "4": lambda: FAILED}
    chosen = ""
    while chosen not in choices:
        chosen = typer.prompt("Your choice (1-4)", default="4")
    return choices[chosen]()


def _install() -> int:
    with as_file(files("tokenlane.worker") / _SCRIPT) as script:
        typer.echo(f"\n{script.read_text(encoding='utf-8')}")
        if not typer.confirm("Run this script?", default=False):
            return FAILED
        # Not `subprocess.run`, which kills the script at Ctrl-C before it can clean up.
        with subprocess.Popen(["sh", str(script)]) as process:
            code = process.wait()
    if code != 0:
        raise UserError(
            f"The script failed with code {code}, and Ollama is not installed: see its output above, or use the "
            "installer at https://ollama.com/download."
        )
    typer.echo("\nPull a model with `ollama pull MODEL`. Then `tokenlane up` finds Ollama and serves it.")
    return OK


def _use_remote() -> int:
    endpoint = typer.prompt("The endpoint's URL, such as https://HOST")
    host = endpoint.partition("://")[2].partition("/")[0]
    if "@" in host or "?" in endpoint or "#" in endpoint:  # the URL may hold a secret, so the message does not quote it
        raise UserError(
            "The URL has a user name, a query or a fragment. These may be secret, and llm.toml must not hold secrets: "
            "run `tokenlane probe` again with the plain URL, and name the environment variable that holds the key."
        )
    variable = typer.prompt("The environment variable with its key (empty for none)", default="", show_default=False)
    if variable and not variable.isidentifier():  # the text may be the key, so the message does not quote it
        raise UserError(
            "That is not the name of an environment variable. Put the key into one (`export NAME=…`), and enter its "
            "name."
        )
    key = secret_in(variable) if variable else None
    if variable and key is None:
        raise UserError(
            f"{variable} is not set or is empty: run `export {variable}=…` in this shell, then `tokenlane probe` again."
        )
    lane = LaneSettings("remote", "openai", endpoint, api_key=key, api_key_from=variable or None)
    server = asyncio.run(probe_target(Target(lane, "openai")))
    if server.problem:
        raise UserError(f"{server.endpoint} cannot be used: {server.problem}")
    model = _chosen_model(server)
    typer.echo(f"Asking {one_line(model)} to generate one token ...")
    try:
        asyncio.run(generate_token(lane, model))
    except LlmError as error:
        raise UserError(
            f"{server.endpoint} lists its models, but a chat with {one_line(model)} failed: {error.message} "
            "Nothing was written. Run `tokenlane probe` again, and choose another model or another key."
        ) from None
    text = _llm_toml(endpoint, variable, model)
    file = Path(typer.prompt("Write the configuration to", default="llm.toml")).expanduser()
    if file.exists():
        typer.echo(f"\n{file} already exists and is not changed. Add this to it:\n\n{text}")
        return OK
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{file} cannot be written: {error.strerror or error}. Put this into another file:\n\n{text}"
        ) from None
    typer.echo(f"\nWrote {file}. `tokenlane up` uses it from this directory, or with --config {file}.")
    return OK


def _chosen_model(server: ModelServer) -> str:
    models = {one_line(model): model for model in server.models}
    shown = [*models]
    typer.echo(f"The endpoint answers and lists {len(models)} models: {', '.join(shown[:_SHOWN_MODELS])}")
    model = ""
    while model not in models:
        model = typer.prompt("Which model", default=shown[0])
    return models[model]


def _llm_toml(endpoint: str, variable: str, model: str) -> str:
    # A JSON string is a TOML string, except that JSON writes some characters as surrogate pairs.
    def text(value: str) -> str:
        return escaped(json.dumps(value, ensure_ascii=False), toml=True)

    lines = ["[defaults]", 'provider = "openai"', f"model = {text(model)}", ""]
    lines += ["[openai]", f"endpoint = {text(endpoint)}"]
    lines += [f"api_key_env = {text(variable)}"] if variable else []
    return "\n".join(lines) + "\n"


def _use_builtin() -> int:
    typer.echo("\nTo start a pool with the built-in model, run: tokenlane up --provider builtin")
    return OK
