"""`--llm key=value …` on the command line.

Every `key=value` that follows `--llm` belongs to it, which no option of a typer command can say. So arguments are
rewritten before typer sees them: one `--llm` in front of each. A key is one of this process's lane (`provider`,
`model`, `endpoint`, …) or `SECTION.KEY` of llm.toml (`vllm.timeout_ms`, `lanes.gpu0.capacity`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from tokenlane.config.exit_codes import ConfigError

OPTION = "--llm"
EXAMPLE = f"as in: {OPTION} provider=vllm model=phi3:8b"
_ANYWHERE = (OPTION, "--config")  # before the verb, or after it
# Names of models hold what other names do not: `phi3:8b`, `hf.co/org/name:Q4`.
_ASSIGNMENT = re.compile(r"(models\.[^\s=]+|[A-Za-z][A-Za-z0-9_.@-]*)=(.*)", re.DOTALL)


def spread(arguments: Iterable[str]) -> Iterator[str]:
    """The arguments, `--llm` put in front of every `key=value` that belongs to one; all after `--` is left alone."""
    belongs = verbatim = False
    waiting = False  # an --llm whose first value has not come yet
    for argument in arguments:
        verbatim = verbatim or argument == "--"
        if not verbatim and argument == OPTION:
            if waiting:
                yield OPTION
            belongs = waiting = True
            continue
        if not verbatim and argument.startswith(f"{OPTION}="):
            belongs, argument = True, argument.removeprefix(f"{OPTION}=")
            yield OPTION
        elif waiting or (belongs and not verbatim and _ASSIGNMENT.fullmatch(argument)):
            yield OPTION
        else:
            belongs = False
        waiting = False
        yield argument
    if waiting:
        yield OPTION


def verb_first(arguments: Iterable[str]) -> list[str]:
    """The arguments, the verb put in front of `--llm` and `--config`, each with its value, if they come before it."""
    rest, before = list(arguments), list[str]()
    while needs_verb(rest):
        length = 1 if "=" in rest[0] else 2
        before, rest = before + rest[:length], rest[length:]
    return [*rest[:1], *before, *rest[1:]] if rest and not rest[0].startswith("-") else before + rest


def needs_verb(arguments: Sequence[str]) -> bool:
    """Whether the arguments begin with one of the options that are a verb's and may stand before it."""
    return bool(arguments) and arguments[0].partition("=")[0] in _ANYWHERE


def apart(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each `key=value` that no --llm is in front of, where there is one elsewhere; with its key.

    Args:
        arguments: as `spread` leaves them.
    """
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if OPTION in ours:
        for before, text in zip(["", *ours], ours, strict=False):
            found = _ASSIGNMENT.fullmatch(text)
            if found is not None and before != OPTION:
                yield found[1], text


def assignment(text: str) -> tuple[tuple[str, ...], str]:
    """The path of a `key=value`, and the value, which may hold `=` itself.

    A dotted key names a section first and a key last; all between is a name, dots included, quoted as in TOML or not.
    Only `roles.NAME.limits.KEY` is one deeper.

    Raises:
        ConfigError: it is not `key=value`.
    """
    found = _ASSIGNMENT.fullmatch(text)
    if found is None:
        # The text is not quoted: a value whose key was forgotten may be a secret.
        raise ConfigError(f"{OPTION} takes key=value, {EXAMPLE}")
    section, *rest = found[1].split(".")
    if len(rest) < 2:
        return (section, *rest), found[2]
    depth = 2 if section == "roles" and len(rest) > 2 and rest[-2] == "limits" else 1
    name = ".".join(rest[:-depth])
    quoted = len(name) > 1 and name[0] == name[-1] and name[0] in "\"'"
    return (section, name[1:-1] if quoted else name, *rest[-depth:]), found[2]
