"""Loads the Lua scripts in `lua/` and runs them on a pool's server."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from importlib import resources

from tokenlane.routing.contract.kinds import KINDS, queue_suffix
from tokenlane.routing.decide.policy import LEASES_KEPT, Policy
from tokenlane.routing.decide.recovery import FREE_RETRIES, RETRY_MS
from tokenlane.routing.telemetry.commands import is_recorded, recorded

from .keys import Keys
from .replies.values import Reply
from .server import Commands, Script, Urgency

RULES = ("depth", "in_flight", "start_lease_ms", "lease_ms", "orphan_ms", "patience_ms")
_LUA = resources.files(__package__).joinpath("lua")
_USES = re.compile(r"^-- uses +(.+)$", re.MULTILINE)


class Scripts:
    """Runs scripts (`run`) and single commands (`ask`) on a pool's server.

    Both raise `PoolUnavailable` if the server does not answer or refuses the command, and `QueueFull` if the server is
    out of memory.
    """

    def __init__(self, commands: Commands, keys: Keys) -> None:
        self.ask = commands.ask
        self._commands = commands
        self._prefix = keys.prefix
        self._scripts = {name: Script(name, _source(name, keys.database)) for name in _names()}

    def run(self, name: str, *args: bytes | str | int, urgency: Urgency = Urgency.USUAL) -> Awaitable[Reply]:
        """Run the script `lua/NAME.lua` and return its reply. `args`: its ARGV, which its header describes."""
        reply = self._commands.run(self._scripts[name], self._prefix, *args, urgency=urgency)
        return recorded(name, reply) if is_recorded() else reply


def _names() -> list[str]:
    return [file.name.removesuffix(".lua") for file in _LUA.iterdir() if file.name.endswith(".lua")]


def _source(name: str, database: int) -> str:
    """The text of a script, preceded by the parts in `lua/shared/` that it uses. Other parts are left out, because
    Redis executes the whole text at every call."""
    script = _LUA.joinpath(f"{name}.lua").read_text(encoding="utf-8")
    parts: dict[str, str] = {}

    def add_parts(text: str) -> None:
        for uses in _USES.findall(text):
            for part in uses.split(", "):
                if part not in parts:
                    shared = _LUA.joinpath("shared", f"{part}.lua").read_text(encoding="utf-8")
                    add_parts(shared)
                    parts[part] = shared

    add_parts(script)
    return (_tables(database) if parts else "") + "".join(parts.values()) + script


def _tables(database: int) -> str:
    """Lua definitions of the database number, the policy's defaults, the kinds of work, the retry budget and how long
    facts of workers are kept."""
    defaults = Policy()
    rules = ", ".join(f"{rule} = {getattr(defaults, rule)}" for rule in RULES)
    names = ", ".join(f"'{name}'" for name in KINDS)
    suffixes = ", ".join(f"{name} = '{queue_suffix(name)}'" for name in KINDS)
    long = ", ".join(f"{name} = true" for name, kind in KINDS.items() if kind.is_long)
    unrouted = ", ".join(f"{name} = true" for name, kind in KINDS.items() if not kind.follows_routes)
    return (
        f"local DATABASE, RULES = '{database}', {{ {rules} }}\n"
        f"local KINDS, SUFFIXES, IS_LONG = {{ {names} }}, {{ {suffixes} }}, {{ {long} }}\n"
        f"local IS_UNROUTED = {{ {unrouted} }}\n"
        f"local FREE_RETRIES, RETRY_MS, LEASES_KEPT = {FREE_RETRIES}, {RETRY_MS}, {LEASES_KEPT}\n"
    )
