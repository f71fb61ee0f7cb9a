"""What the conformance suite found of each provider, kept in `docs/providers.json`, and the table of it for the docs.

`TOKENLANE_RECORD=1` has the tests write down what they find, and the table anew; else they compare.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Literal

from tests.documents import GeneratedPart
from tests.repository import ROOT

from tokenlane.worker.providers.conformance import Report

__all__ = ["COLUMNS", "TABLE", "agrees", "findings", "table"]

FILE = ROOT / "docs" / "providers.json"
TABLE = GeneratedPart(ROOT / "docs" / "providers.md", "conformance")
COLUMNS = {
    "chat": ("chat", "limit", "stop"),
    "cancel": ("cancel",),
    "errors": ("errors", "too long"),
    "schema": ("schema",),
    "tools": ("tools",),
    "images": ("vision",),
    "prefill": ("prefill",),
    "embeddings": ("embed",),
    "tokens counted": ("count",),
    "health": ("health",),
}
"""The table's columns, and the checks behind each."""

Against = Literal["real server", "simulator"]
Findings = dict[str, dict[str, dict[str, str]]]


def findings() -> Findings:
    """By provider, and by what it was checked against."""
    found: Findings = json.loads(FILE.read_text()) if FILE.exists() else {}
    return found


def agrees(provider: str, against: Against, *reports: Report) -> None:
    """Assert that no promise is broken, and that this is what is written down. Of several reports, the later ones say
    what only their servers can do."""
    for report in reports:
        assert report.passed, report.table()
    outcomes, *others = [{each.check: str(each.outcome) for each in report.results} for report in reports]
    for other in others:
        outcomes |= {check: outcome for check, outcome in other.items() if outcome == "works"}
    if os.environ.get("TOKENLANE_RECORD"):
        known = findings()
        known.setdefault(provider, {})[against] = outcomes
        FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    assert findings().get(provider, {}).get(against) == outcomes, reports[0].table()


def table(known: Findings) -> str:
    """The table, as Markdown."""
    rows = [["provider", *COLUMNS]]
    rows += [[f"`{name}`", *(_cell(known[name], checks) for checks in COLUMNS.values())] for name in sorted(known)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def _cell(against: Mapping[str, Mapping[str, str]], checks: tuple[str, ...]) -> str:
    worked = [
        short
        for name, short in (("real server", "real"), ("simulator", "sim"))
        if name in against and all(against[name].get(check) == "works" for check in checks)
    ]
    if worked:
        return " + ".join(worked)
    outcomes = {outcomes.get(check) for outcomes in against.values() for check in checks}
    return "no" if outcomes <= {"refused"} else "open"
