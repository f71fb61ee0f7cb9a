"""Makes every verb refuse empty options and arguments, and print its help texts without markup."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rich.markup import escape

from tokenlane.config.exit_codes import ConfigError


def prepare(command: Any) -> None:
    """Make a typer command and its subcommands refuse empty values and print help texts without markup."""
    for each in with_subcommands(command):
        each.help = each.help and escape(each.help)
        for param in each.params:
            param.help = param.help and escape(param.help)
            param.process_value = _without_empty(param, param.process_value)


def with_subcommands(command: Any) -> Iterator[Any]:
    """Yield a typer command and all its subcommands."""
    yield command
    for each in getattr(command, "commands", {}).values():
        yield from with_subcommands(each)


def _without_empty(param: Any, process: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Add a check for empty values before `process`, which turns an empty path into the current directory."""

    def checked(context: Any, value: Any) -> Any:
        given = getattr(context.get_parameter_source(param.name), "name", "") == "COMMANDLINE"  # not a default
        if given and not context.resilient_parsing and "" in (value if isinstance(value, list | tuple) else [value]):
            name = max(param.opts, key=len) if param.param_type_name == "option" else param.display_name_raw
            or_none = "" if param.required else ", or leave it out"
            raise ConfigError(
                f"{name} is empty: give it a value{or_none}. If the value is a shell variable, check that it is set."
            )
        return process(context, value)

    return checked
