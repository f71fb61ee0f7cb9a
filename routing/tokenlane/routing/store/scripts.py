"""The scripts in `lua/`: how they are made for a database, sent and run."""

from __future__ import annotations

from collections.abc import Awaitable
from importlib import resources

from tokenlane.routing.contract.kinds import KINDS, queue_suffix
from tokenlane.routing.decide.policy import Policy

from .keys import Keys
from .replies.values import Reply
from .server import Commands, Script, Urgency

RULES = ("depth", "in_flight", "start_lease_ms", "lease_ms", "orphan_ms", "patience_ms")
_SHARED = ("base", "gates", "common")
"""What stands in front of each script, in this order."""
_ALONE = ("publish", "rehearse")
"""Scripts that use nothing of that, which costs the first more than what it does."""


class Scripts:
    """The scripts of one pool on its server, which also takes single commands.

    Both raise `PoolUnavailable` when the server does not answer or refuses, and `QueueFull` when it has no memory left.
    """

    def __init__(self, commands: Commands, keys: Keys) -> None:
        self.ask = commands.ask
        self._commands = commands
        self._prefix = keys.prefix
        self._scripts = {name: Script.of(text) for name, text in sources(keys.database).items()}

    def run(self, name: str, *args: bytes | str | int, urgency: Urgency = Urgency.USUAL) -> Awaitable[Reply]:
        """What the script of this name replies."""
        return self._commands.run(self._scripts[name], self._prefix, *args, urgency=urgency)


def sources(database: int) -> dict[str, str]:
    """The text of each script, by its name."""
    return {name: _source(name, database) for name in _names()}


def _names() -> list[str]:
    folder = resources.files(__package__).joinpath("lua")
    names = (file.name.removesuffix(".lua") for file in folder.iterdir() if file.name.endswith(".lua"))
    return sorted(name for name in names if name not in _SHARED)


def _source(name: str, database: int) -> str:
    folder = resources.files(__package__).joinpath("lua")
    parts = (name,) if name in _ALONE else (*_SHARED, name)
    text = "".join(folder.joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in parts)
    return text if name in _ALONE else _head(database) + text


def _head(database: int) -> str:
    """What Lua knows of Python's tables: the policy's defaults and the kinds of work."""
    defaults = Policy()
    rules = ", ".join(f"{rule} = {getattr(defaults, rule)}" for rule in RULES)
    names = ", ".join(f"'{name}'" for name in KINDS)
    suffixes = ", ".join(f"{name} = '{queue_suffix(name)}'" for name in KINDS)
    long = ", ".join(f"{name} = true" for name, kind in KINDS.items() if kind.is_long)
    return (
        f"local DATABASE, RULES = '{database}', {{ {rules} }}\n"
        f"local KINDS, SUFFIXES, IS_LONG = {{ {names} }}, {{ {suffixes} }}, {{ {long} }}\n"
    )
