"""Each decision has one subject, the same parts in the same order, and an entry in the index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.documents import GeneratedPart
from tests.repository import ROOT

COMPONENTS = ("config", "routing", "producer", "worker", "benches")
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
INDEX = GeneratedPart(ROOT / "docs" / "decisions" / "README.md", "decisions")
LINES_OF_A_PAGE = 60


NAME = re.compile(r"`([A-Z]\w*[a-z]\w*(?:\.\w+)?|[a-z]+_\w+)(?:\([^`]*\))?`")
"""A class, perhaps with an attribute, or a name of several words."""
GONE = {"SpaceMismatch", "primary_of"}
"""Names that were removed: the decisions that introduced and removed them name them."""


def title_of(path: Path) -> tuple[int, str]:
    """A decision's number and title, from its first line."""
    match = re.fullmatch(r"# (\d+)\. (.+)", path.read_text(encoding="utf-8").partition("\n")[0])
    assert match is not None, f"{path.name} does not begin with '# NUMBER. TITLE'"
    return int(match[1]), match[2]


def generated() -> str:
    """A line for each decision, with a link."""
    titles = ((*title_of(path), path.name) for path in DECISIONS)
    return "".join(
        f"- [{number}. {title.replace('[', '').replace(']', '')}]({name})\n" for number, title, name in titles
    )


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_its_parts_on_one_page(path: Path) -> None:
    """Its number is its file's; context, decision and consequences follow in this order."""
    text = path.read_text(encoding="utf-8")
    assert title_of(path)[0] == int(path.name[:4])
    parts = [part for part in re.findall(r"^## (.+)$", text, re.MULTILINE) if not part.startswith("Why ")]
    assert parts == ["Context", "Decision", "Consequences"]
    assert text.count("\n") <= LINES_OF_A_PAGE


def test_names_of_code_exist() -> None:
    """A class, function, setting or option that a decision names is one of the product."""
    files = (path for component in COMPONENTS for path in (ROOT / component / "tokenlane").rglob("*"))
    code = {
        word for path in files if path.suffix in (".py", ".lua") for word in re.findall(r"\w+", path.read_text("utf-8"))
    }
    named = {(path.name, name) for path in DECISIONS for name in NAME.findall(path.read_text(encoding="utf-8"))}
    assert named
    assert {(page, name) for page, name in named if not set(name.split(".")) <= code | GONE} == set()


def test_the_index_is_up_to_date() -> None:
    """After a change, `TOKENLANE_RECORD=1` writes it anew."""
    assert INDEX.is_up_to_date(generated())
