"""The scripts in `lua/`, as they go to the server."""

from __future__ import annotations

from importlib import resources

from tokenlane.routing.contract.kinds import KINDS, queue_suffix
from tokenlane.routing.decide.policy import Policy

__all__ = ["RULES", "sources"]

RULES = ("depth", "in_flight", "start_lease_ms", "lease_ms", "orphan_ms", "max_crashes", "patience_ms")
_ALONE = ("publish", "rehearse")
"""Scripts that use nothing of common.lua, which costs the first more than what it does."""


def sources(database: int) -> dict[str, str]:
    """The text of each script, by its name."""
    return {name: _source(name, database) for name in _names()}


def _names() -> list[str]:
    folder = resources.files(__package__).joinpath("lua")
    names = (file.name.removesuffix(".lua") for file in folder.iterdir() if file.name.endswith(".lua"))
    return sorted(name for name in names if name != "common")


def _source(name: str, database: int) -> str:
    folder = resources.files(__package__).joinpath("lua")
    common, own = (folder.joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in ("common", name))
    return own if name in _ALONE else _head(database) + common + own


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
