"""The root of the command line: lists the verbs, runs the requested verb, and exits with its exit code.

A verb is an entry point `module:function` in the group `tokenlane.commands`: a synchronous function with parameters
annotated for typer, or a `typer.Typer` with subcommands. A verb is imported when it runs. `tokenlane --help` imports no
verb, since `VERBS` has their help lines. To add a verb, write `tokenlane.<component>.commands.<verb>`, register it in
pyproject.toml and add it to `VERBS`.

Verbs that read llm.toml get the options `--config` and `--llm` from this module. The options apply to all settings that
the verb loads with `tokenlane.config.settings.load`, and to the commands that it starts.

A verb ends by returning (exit code 0), by `raise typer.Exit(code)`, by a `UserError`, whose message is printed without
a traceback, or by Ctrl-C (130).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

from tokenlane.config.extras import install_advice

try:
    import typer
    from typer.core import TyperGroup
    from typer.exceptions import TyperException
except ModuleNotFoundError:
    sys.stderr.write(f"tokenlane: the command line is not installed: {install_advice('cli')}.\n")
    raise SystemExit(2) from None

from tokenlane.config.cli import failure
from tokenlane.config.cli.plain_text import PlainFormatter, json_text
from tokenlane.config.exit_codes import ConfigError, UserError
from tokenlane.config.settings.llm_option import repeat_option
from tokenlane.config.spans.export import exporting_spans

_COMPLETION = ("--install-completion", "--show-completion")


class Verb(NamedTuple):
    """The root's information about a verb, available without importing the verb."""

    help: str
    extras: str  # the extras that install what the verb imports
    configured: bool = True  # whether the verb reads llm.toml
    traced: bool = False  # whether the verb sends or serves requests, so that its process exports spans


VERBS = {
    "chat": Verb("Ask a question and stream the answer.", "cli", traced=True),
    "embed": Verb("Turn texts into vectors.", "cli", traced=True),
    "models": Verb("List, pull, verify, load and unload the models of lanes.", "cli", traced=True),
    "demo": Verb(
        "Start a pool and a worker, stream answers from a small model, and stop again.", "worker,builtin", traced=True
    ),
    "up": Verb("Run a pool and a worker on this machine until Ctrl-C.", "worker,builtin", traced=True),
    "invite": Verb("Print the commands that connect another host to the pool, including secrets.", "cli"),
    "worker": Verb("Serve one lane: one model server, usually one GPU.", "worker", traced=True),
    "probe": Verb("Find model servers, and explain how to start one if there is none.", "worker"),
    "plugins": Verb("Check a prompt plugin, and print the interface of plugins.", "worker,plugins", configured=False),
    "status": Verb("Show waiting and running requests, lanes and workers; --check is for monitoring.", "cli"),
    "top": Verb("Watch the roles and lanes of a pool, each second, until q or Ctrl-C.", "cli"),
    "dashboard": Verb("Serve a live page of the pool, from which operators also steer it.", "metrics"),
    "serve": Verb("Serve the HTTP APIs of OpenAI and Anthropic in front of the pool.", "gateway", traced=True),
    "launch": Verb("Start a coding agent, such as Claude Code, that asks the pool.", "gateway"),
    "requests": Verb("List, explain and cancel the pool's requests.", "cli"),
    "lanes": Verb("List lanes, give a lane no new work, and let it get work again.", "cli"),
    "roles": Verb("Let a role's requests wait, start again, or be cancelled.", "cli"),
    "failed": Verb("List and explain requests that failed, send them again, and drop them.", "cli"),
    "config": Verb("Show the settings in force and their sources; `init` writes an llm.toml.", "cli"),
    "policy": Verb("Show, compare and apply the pool's routes and limits.", "cli"),
    "key": Verb("Show, create and rotate the keys that seal the pool's requests.", "cli"),
    "keys": Verb("Add, list and revoke the API keys of HTTP clients.", "cli"),
    "doctor": Verb("Check a pool's server, clock, keys, lanes and versions, and suggest repairs.", "cli"),
    "router": Verb("Route requests to lanes without serving one; every worker routes too.", "cli"),
    "exporter": Verb("Serve the pool's metrics to Prometheus.", "metrics"),
    "simulate": Verb("Simulate a model server, for tests and measurements.", "bench", configured=False),
    "bench": Verb("Measure the overhead of tokenlane on this machine.", "bench", configured=False),
}


class Root(TyperGroup):
    """Lists the verbs without importing them, and imports the verb that runs."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the verb, and return its name, its command and the remaining arguments."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else _load(_installed()[name]), rest

    def invoke(self, ctx: Any) -> Any:
        """Run the verb. With `--json`, also print errors in its arguments as JSON."""
        arguments = list(ctx.args)
        try:
            return super().invoke(ctx)
        except TyperException as error:
            if failure.wants_json(arguments):  # typer prints the error on standard error
                typer.echo(json_text({"error": ConfigError(error.format_message()).document()}))
            raise


def main() -> None:
    """Run the command line and exit."""
    arguments = list(repeat_option(sys.argv[1:]))
    _prepare_typer(arguments)
    if logging.lastResort is not None:  # unlike the library, verbs print warnings
        logging.lastResort.setFormatter(PlainFormatter())
        logging.getLogger().addHandler(logging.lastResort)
    app = typer.Typer(cls=Root, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(_root)
    installed = _installed()
    for name in [*(verb for verb in VERBS if verb in installed), *sorted(installed.keys() - VERBS.keys())]:
        app.command(name, help=VERBS[name].help if name in VERBS else f"From {installed[name].value}.")(_stub)
    try:
        if sys.stdout is None:
            raise UserError("Standard output is closed: redirect it to a file or to /dev/null.")
        try:
            with _installing_completion(arguments):
                app(args=arguments)
        finally:
            sys.stdout.flush()
    except (Exception, SystemExit) as error:
        user_error = failure.as_user_error(error)
        if user_error is None:
            raise
        _end(user_error, json=failure.wants_json(arguments))


def _end(error: UserError, *, json: bool) -> NoReturn:
    try:
        failure.report(error, json=json and sys.stdout is not None)
    except OSError as unwritten:  # the error cannot be written to standard output either
        error = failure.as_user_error(unwritten) or error
        failure.report(error, json=False)
    if sys.stdout is not None:
        failure.discard_output()
    raise SystemExit(error.exit_code) from None


def _prepare_typer(arguments: Sequence[str]) -> None:
    # NO_COLOR, a convention of terminal programs, and the variable of typer are not settings of tokenlane.
    if os.environ.get("NO_COLOR"):  # noqa: TID251 - see above
        from typer import rich_utils

        rich_utils.COLOR_SYSTEM = None  # typer alone would keep bold and dim
    option, given, _ = arguments[0].partition("=") if arguments else ("", "", "")
    if option in _COMPLETION and (given or len(arguments) > 1):
        # With this variable typer uses the shell in the arguments, not the shell that it detects.
        os.environ["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"  # noqa: TID251 - see above


@contextmanager
def _installing_completion(arguments: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not arguments or not arguments[0].startswith(_COMPLETION[0]) or error.filename is None:
            raise
        raise UserError(
            f"Completion cannot be installed: {error.filename}: {error.strerror or error}. Print it with "
            "`tokenlane --show-completion SHELL`, and add it to your shell's startup file."
        ) from None


@cache  # a look reads a file of each installed distribution
def _installed() -> dict[str, EntryPoint]:
    return {verb.name: verb for verb in entry_points(group="tokenlane.commands")}


def _load(verb: EntryPoint) -> Any:
    # This imports rich, which `tokenlane --version` does not need.
    from tokenlane.config.cli.strict_options import prepare, with_subcommands

    try:
        loaded = verb.load()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("tokenlane") or verb.name not in VERBS:
            raise
        advice = install_advice(VERBS[verb.name].extras)
        raise ConfigError(f"`tokenlane {verb.name}` needs the module {error.name!r}: {advice}.") from error
    command = _command(verb.name, loaded)
    if verb.name in VERBS and VERBS[verb.name].configured:
        for each in with_subcommands(command):
            each.params.extend(_command("", _configuration).params)
    if verb.name in VERBS and VERBS[verb.name].traced:
        for each in with_subcommands(command):
            if each.callback is not None:
                each.callback = exporting_spans(verb.name, each.callback)
    prepare(command)
    return command


def _command(name: str, function: Any) -> Any:
    app = function
    if not isinstance(function, typer.Typer):
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(name)(function)
    return typer.main.get_command(app)


def _take_config(config: Path | None) -> None:
    if config is None:
        return
    if str(config) == "-":  # commands that the verb starts have a different standard input
        raise ConfigError("--config needs a file: only `policy apply` and `policy diff` read standard input.")
    from tokenlane.config.settings.environment import take_command_line

    take_command_line(config)


def _take_llm(llm: list[str] | None) -> None:
    from tokenlane.config.settings.environment import take_command_line

    take_command_line(llm=llm or ())


def _configuration(
    config: Annotated[
        Path | None,
        typer.Option(
            help="The settings file to read instead of ./llm.toml.",
            callback=_take_config,
            expose_value=False,
            dir_okay=False,
        ),
    ] = None,
    llm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE ...",
            help="Settings that override llm.toml, as in: --llm provider=vllm model=phi3:8b",
            callback=_take_llm,
            expose_value=False,
        ),
    ] = None,
) -> None:
    """Take the options of every verb that reads llm.toml."""


def _stub() -> None:
    raise AssertionError("Root.resolve_command loads a verb before it runs")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tokenlane {version('tokenlane')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """A message queue between agents and language models."""
