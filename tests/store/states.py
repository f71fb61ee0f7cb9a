"""The table of states in docs/architecture.md."""

from __future__ import annotations

from typing import NamedTuple

from tests.documents import table_on
from tests.repository import ROOT


class Change(NamedTuple):
    """A script took a request from one state to another."""

    script: str
    before: str
    after: str


def _table() -> dict[tuple[str, str], frozenset[Change]]:
    """The changes in each row, by script and condition. A row may name several scripts and states."""
    return {
        (script, when): frozenset(
            Change(script, before, after) for before in sources.split(", ") for after in targets.split(", ")
        )
        for scripts, when, sources, targets in table_on(ROOT / "docs" / "architecture.md", "states")
        for script in scripts.split(", ")
    }


TABLE = _table()
CHANGES = frozenset[Change]().union(*TABLE.values())
"""All changes in the table."""
