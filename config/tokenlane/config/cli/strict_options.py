"""Changes the options and arguments of every verb: an empty value is refused, and a help text is no markup."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rich.markup import escape

from tokenlane.config.exit_codes import ConfigError


def prepare(command: Any) -> None:
    """Have a command of typer's, and all below it, refuse empty values and show help texts as they are written."""
    for each in with_subcommands(command):
        each.help = each.help and escape(each.help)
        for param in each.params:
            param.help = param.help and escape(param.help)
            param.process_value = _without_empty(param, param.process_value)


def with_subcommands(command: Any) -> Iterator[Any]:
    """A command of typer's, and all below it."""
    yield command
    for each in getattr(command, "commands", {}).values():
        yield from with_subcommands(each)


def _without_empty(param: Any, process: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """`process`, for values that are not empty: before it, since a path made from nothing is the current directory."""

    def checked(context: Any, value: Any) -> Any:
        given = getattr(context.get_parameter_source(param.name), "name", "") == "COMMANDLINE"  # and no default
        if given and not context.resilient_parsing and "" in (value if isinstance(value, list | tuple) else [value]):
            name = max(param.opts, key=len) if param.param_type_name == "option" else param.display_name_raw
            raise ConfigError(
                f"{name} is empty: give it a value, or leave it out. A shell makes an empty value of a variable that "
                "is not set."
            )
        return process(context, value)

    return checked
