"""The root of the command line.

A verb is an entry point of the group `tokenlane.commands`, `module:function`. The function is plain and synchronous,
its parameters annotated for typer; it may call `asyncio.run`. A verb with verbs of its own is a `typer.Typer` instead.
It is imported when its verb is called and not before, so `tokenlane --help` imports no component: the verbs' one-line
helps stand here. To add one, write `tokenlane.<component>.commands.<verb>`, name it in pyproject.toml and give it a
line in `VERBS`.

Verbs that are configured take `--config` and `--llm`, which are added here: they hold for whatever the verb reads with
`tokenlane.config.settings.load`, and for the commands it starts. They may stand in front of the verb too.

A command ends with a code of `tokenlane.config.exit_codes`: by returning (0), by `raise typer.Exit(code)`, by
raising a `UserError`, whose message is all that is printed, or by Ctrl-C (130).
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

try:
    import typer
    from typer.core import TyperGroup
    from typer.exceptions import TyperException
except ModuleNotFoundError:
    sys.stderr.write("tokenlane: the command line is an extra: pip install 'tokenlane[cli]'\n")
    raise SystemExit(2) from None

from tokenlane.config.cli import failure
from tokenlane.config.cli.plain_text import PlainFormatter, json_text
from tokenlane.config.exit_codes import ConfigError, UserError
from tokenlane.config.settings.llm_option import EXAMPLE, OPTION, apart, needs_verb, spread, verb_first

_COMPLETION = ("--install-completion", "--show-completion")


class Verb(NamedTuple):
    """What the root tells of a verb without importing it."""

    help: str
    extra: str  # of the tokenlane distribution, in which its imports are
    configured: bool = True  # reads llm.toml


VERBS = {
    "chat": Verb("Ask a question and stream the answer.", "cli"),
    "embed": Verb("Turn texts into vectors.", "cli"),
    "models": Verb("List, pull, verify, load and unload the models of lanes.", "cli"),
    "demo": Verb("Start everything, stream answers from a small real model, stop everything.", "worker,builtin"),
    "up": Verb("Start a pool and a worker on this machine, until Ctrl-C.", "worker,builtin"),
    "invite": Verb("Print the lines that let another host into the pool, secrets included.", "cli"),
    "worker": Verb("Serve one lane: one back end, usually one GPU.", "worker"),
    "probe": Verb("Look for model servers, and say what to do if there is none.", "worker"),
    "status": Verb("Show what waits, what runs, and who serves it; --check for monitors.", "cli"),
    "config": Verb("Show the settings that hold and where they come from; init writes a file.", "cli"),
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
        """Return name, command and remaining arguments as the base class does, the verb now loaded."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else _load(_installed()[name]), rest

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; what it does not take may have been meant for --llm."""
        arguments = list(ctx.args)
        try:
            return super().invoke(ctx)
        except TyperException as error:
            for key, text in apart(arguments):
                if text in str(error):  # the text is not quoted: a value may be a secret
                    raise ConfigError(f"{key}=… belongs directly after {OPTION}, {EXAMPLE}") from None
            if failure.wants_json(arguments):  # typer says it to people
                typer.echo(json_text({"error": ConfigError(error.format_message()).document()}))
            raise


def main() -> None:
    """Run the command line and exit."""
    arguments = sys.argv[1:]
    _prepare_typer(arguments)
    _keep_logs_plain()
    app = typer.Typer(cls=Root, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(_root)
    installed = _installed()
    for name in [*(verb for verb in VERBS if verb in installed), *sorted(installed.keys() - VERBS.keys())]:
        app.command(name, help=VERBS[name].help if name in VERBS else f"From {installed[name].value}.")(_stub)
    try:
        if sys.stdout is None:
            raise UserError("There is no standard output to write to.")
        try:
            arguments = verb_first(spread(arguments))
            if needs_verb(arguments):
                raise ConfigError("a verb is missing: `tokenlane --help` lists them.")
            with _installing_completion(arguments):
                app(args=arguments)
        finally:
            sys.stdout.flush()
    except (Exception, SystemExit) as error:
        told = failure.as_user_error(error)
        if told is None:
            raise
        _end(told, json=failure.wants_json(arguments))


def _end(told: UserError, *, json: bool) -> NoReturn:
    try:
        failure.say(told, json=json and sys.stdout is not None)
    except OSError as error:  # it cannot be said where the answer could not be written either
        told = failure.as_user_error(error) or told
        failure.say(told, json=False)
    if sys.stdout is not None:
        failure.discard_output()
    raise SystemExit(told.exit_code) from None


def _keep_logs_plain() -> None:
    if logging.lastResort is not None:  # the handler of verbs that set up no logging
        logging.lastResort.setFormatter(PlainFormatter())


def _prepare_typer(arguments: Sequence[str]) -> None:
    # NO_COLOR, which all programs on a terminal obey, and what typer reads are no settings of tokenlane.
    if os.environ.get("NO_COLOR"):  # noqa: TID251 - see above
        from typer import rich_utils

        rich_utils.COLOR_SYSTEM = None  # by itself it leaves bold and dim
    option, given, _ = arguments[0].partition("=") if arguments else ("", "", "")
    if option in _COMPLETION and (given or len(arguments) > 1):
        # Its options then take the shell that is named, and not the one they find.
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
    from tokenlane.config.cli.strict_options import (  # with rich, which `tokenlane --version` needs not
        prepare,
        with_subcommands,
    )

    try:
        loaded = verb.load()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("tokenlane") or verb.name not in VERBS:
            raise
        extra = VERBS[verb.name].extra
        raise ConfigError(f"`{verb.name}` needs {error.name!r}: pip install 'tokenlane[{extra}]'") from error
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
    if config is not None and str(config) == "-":  # others may be started, which have another standard input
        raise ConfigError("--config takes a file: only `policy apply` and `policy diff` read standard input.")
    if config is not None:
        from tokenlane.config.settings.environment import take_command_line

        take_command_line(config)


def _take_llm(llm: list[str] | None) -> None:
    if llm:
        from tokenlane.config.settings.environment import take_command_line

        take_command_line(llm=llm)


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
    """The options of every verb that is configured."""


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
