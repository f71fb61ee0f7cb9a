"""Parses the option `--llm key=value …`.

A key is a setting of this process's lane (`provider`, `model`, `endpoint`, …), or a key of llm.toml with its section
(`vllm.timeout_ms`, `lanes.gpu0.capacity`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

from tokenlane.config.exit_codes import ConfigError

OPTION = "--llm"
# Names of models may contain characters that other names must not: `phi3:8b`, `hf.co/org/name:Q4`.
_ASSIGNMENT = re.compile(r"(models\.[^\s=]+|[A-Za-z][A-Za-z0-9_.@-]*)=(.*)", re.DOTALL)


def repeat_option(arguments: Iterable[str]) -> Iterator[str]:
    """Insert `--llm` before every further `key=value` after `--llm key=value`, since a typer option takes one value.

    Arguments after `--` stay as they are.
    """
    follows = False
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            yield argument
            yield from rest
        elif argument == OPTION:
            yield from (OPTION, *islice(rest, 1))
            follows = True
        elif argument.startswith(f"{OPTION}="):
            yield argument
            follows = True
        else:
            follows = follows and _ASSIGNMENT.fullmatch(argument) is not None
            yield from (OPTION, argument) if follows else (argument,)


def parse_assignment(text: str) -> tuple[tuple[str, ...], str]:
    """Return the path and the value of an assignment `key=value`.

    A dotted key begins with a section and ends with a key of that section. The part between them is a name, which may
    contain dots and may be quoted as in TOML. `roles.NAME.limits.KEY` has one level more.

    Raises:
        ConfigError: the text is not `key=value`.
    """
    match = _ASSIGNMENT.fullmatch(text)
    if match is None:
        # The error does not quote the text: it may be a secret whose key was forgotten.
        raise ConfigError(f"{OPTION} takes key=value, as in `{OPTION} provider=vllm model=phi3:8b`.")
    section, *rest = match[1].split(".")
    if len(rest) < 2:
        return (section, *rest), match[2]
    depth = 2 if section == "roles" and len(rest) > 2 and rest[-2] == "limits" else 1
    name = ".".join(rest[:-depth])
    quoted = len(name) > 1 and name[0] == name[-1] and name[0] in "\"'"
    return (section, name[1:-1] if quoted else name, *rest[-depth:]), match[2]
