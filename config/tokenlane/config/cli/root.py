"""The root of the command line: lists the verbs, loads the called one, and ends the process with its exit code.

A verb is an entry point of the group `tokenlane.commands`, `module:function`: a plain synchronous function with
parameters annotated for typer, or a `typer.Typer` with verbs of its own. It is imported when it is called, so
`tokenlane --help` imports no component: the verbs' one-line helps stand here. To add a verb, write
`tokenlane.<component>.commands.<verb>`, name it in pyproject.toml and give it a line in `VERBS`.

Verbs that read llm.toml get the options `--config` and `--llm` here. They apply to whatever the verb reads with
`tokenlane.config.settings.load`, and to the commands it starts.

A verb ends by returning (0), by `raise typer.Exit(code)`, by a `UserError`, whose message is all that is printed, or
by Ctrl-C (130).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

_COMPLETION = ("--install-completion", "--show-completion")


class Verb(NamedTuple):
    """What the root knows of a verb without importing it."""

    help: str
    extras: str  # the extras that install what the verb imports
    configured: bool = True  # reads llm.toml


VERBS = {
    "chat": Verb("Ask a question and stream the answer.", "cli"),
    "embed": Verb("Turn texts into vectors.", "cli"),
    "models": Verb("List, pull, verify, load and unload the models of lanes.", "cli"),
    "demo": Verb("Start everything, stream answers from a small real model, stop everything.", "worker,builtin"),
    "up": Verb("Start a pool and a worker on this machine, until Ctrl-C.", "worker,builtin"),
    "invite": Verb("Print the lines that let another host into the pool, secrets included.", "cli"),
    "worker": Verb("Serve one lane: one model server, usually one GPU.", "worker"),
    "probe": Verb("Look for model servers, and say what to do if there is none.", "worker"),
    "status": Verb("Show what waits, what runs, and who serves it; --check for monitors.", "cli"),
    "config": Verb("Show the settings in force and their sources; init writes a file.", "cli"),
    "policy": Verb("Show, compare and apply the pool's routes and limits.", "cli"),
    "key": Verb("Show, make and change the keys that seal the pool.", "cli"),
    "doctor": Verb("Check a pool's server, clock, key, lanes and versions, and say what to do.", "cli"),
    "router": Verb("Route requests to lanes (workers do so too).", "cli"),
    "simulate": Verb("Imitate a model server, for tests and measurements.", "bench", configured=False),
    "bench": Verb("Measure tokenlane on this machine.", "bench", configured=False),
}


class Root(TyperGroup):
    """Lists verbs from their help lines, and loads one when it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return name, command and remaining arguments as the base class does, with the verb loaded."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else _load(_installed()[name]), rest

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; with `--json`, print an error of its arguments as JSON too."""
        arguments = list(ctx.args)
        try:
            return super().invoke(ctx)
        except TyperException as error:
            if failure.wants_json(arguments):  # typer prints it for people
                typer.echo(json_text({"error": ConfigError(error.format_message()).document()}))
            raise


def main() -> None:
    """Run the command line and exit."""
    arguments = list(repeat_option(sys.argv[1:]))
    _prepare_typer(arguments)
    if logging.lastResort is not None:  # the handler of verbs that set up no logging
        logging.lastResort.setFormatter(PlainFormatter())
    app = typer.Typer(cls=Root, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(_root)
    installed = _installed()
    for name in [*(verb for verb in VERBS if verb in installed), *sorted(installed.keys() - VERBS.keys())]:
        app.command(name, help=VERBS[name].help if name in VERBS else f"From {installed[name].value}.")(_stub)
    try:
        if sys.stdout is None:
            raise UserError("There is no standard output to write to.")
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
    except OSError as unwritten:  # standard output takes no error either
        error = failure.as_user_error(unwritten) or error
        failure.report(error, json=False)
    if sys.stdout is not None:
        failure.discard_output()
    raise SystemExit(error.exit_code) from None


def _prepare_typer(arguments: Sequence[str]) -> None:
    # NO_COLOR, a convention of terminal programs, and typer's variable are not settings of tokenlane.
    if os.environ.get("NO_COLOR"):  # noqa: TID251 - see above
        from typer import rich_utils

        rich_utils.COLOR_SYSTEM = None  # typer alone would keep bold and dim
    option, given, _ = arguments[0].partition("=") if arguments else ("", "", "")
    if option in _COMPLETION and (given or len(arguments) > 1):
        # Then typer uses the named shell, not the shell it detects.
        os.environ["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"  # noqa: TID251 - see above


@contextmanager
def _installing_completion(arguments: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not arguments or not arguments[0].startswith(_COMPLETION[0]) or error.filename is None:
            raise
        raise UserError(
            f"Completion cannot be installed: {error.filename}: {error.strerror or error}. "
            "`tokenlane --show-completion SHELL` prints it, to be put where your shell reads it."
        ) from None


def _installed() -> dict[str, EntryPoint]:
    return {verb.name: verb for verb in entry_points(group="tokenlane.commands")}


def _load(verb: EntryPoint) -> Any:
    # Imports rich, which `tokenlane --version` does without.
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
    if str(config) == "-":  # the commands that the verb starts have another standard input
        raise ConfigError("--config takes a file: only `policy apply` and `policy diff` read standard input.")
    from tokenlane.config.settings.environment import take_command_line

    take_command_line(config)


def _take_llm(llm: list[str] | None) -> None:
    from tokenlane.config.settings.environment import take_command_line

    take_command_line(llm=llm or ())


def _configuration(
    config: Annotated[
        Path | None,
        typer.Option(help="The llm.toml to read.", callback=_take_config, expose_value=False, dir_okay=False),
    ] = None,
    llm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE ...",
            help="Settings that win over llm.toml, as in: --llm provider=vllm model=phi3:8b",
            callback=_take_llm,
            expose_value=False,
        ),
    ] = None,
) -> None:
    """The options of every verb that reads llm.toml."""


def _stub() -> None:
    raise AssertionError("a verb is loaded before it is called")


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
