"""The table of attributes in docs/tracing.md is the table in code."""

from __future__ import annotations

from tests.documents import GeneratedPart
from tests.repository import ROOT

from tokenlane.routing.telemetry.conventions import GEN_AI_VERSION, MESSAGING_VERSION, TABLE

PAGE = ROOT / "docs" / "tracing.md"


def test_the_table_is_up_to_date() -> None:
    """After a change, `TOKENLANE_RECORD=1` writes it anew."""
    rows = [f"| `{name}` | {', '.join(row.spans)} | {row.meaning} |" for name, row in TABLE.items()]
    table = "\n".join(["| attribute | spans | meaning |", "|---|---|---|", *rows, ""])
    assert GeneratedPart(PAGE, "attributes").is_up_to_date(table)


def test_the_page_names_the_versions_of_the_conventions() -> None:
    """A reader can look the names up."""
    assert {MESSAGING_VERSION, GEN_AI_VERSION} <= {word.strip("(),") for word in PAGE.read_text().split()}
