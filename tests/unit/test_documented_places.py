"""The documentation leads somewhere: its links, and the modules and tests that it names, are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.repository import ROOT

PAGES = sorted({ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")})
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE_PATH = re.compile(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|lua))`")
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LUA = ROOT / "routing" / "tokenlane" / "routing" / "store"
LINES_OF_A_PAGE = 150


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> Iterator[str]:
    """The links of a page to files or headings that do not exist."""
    for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            yield target


def exists(path: str) -> bool:
    """Whether there is such a file: by its path, or for a module by its component and what follows."""
    component = path.partition("/")[0]
    return any(place.exists() for place in (ROOT / path, ROOT / component / "tokenlane" / path, LUA / path))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Relative links lead to files and headings of the repository."""
    assert list(broken_links(page)) == []


@pytest.mark.parametrize("page", ["architecture", "guarantees"])
def test_every_module_and_test_that_is_named_exists(page: str) -> None:
    """A page that names modules and tests is changed with them."""
    named = CODE_PATH.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))
    assert named
    assert [path for path in named if not exists(path)] == []


def test_pages_are_short() -> None:
    """A page is one concept. Lists that the tests generate may be longer."""
    written = {page: page.read_text(encoding="utf-8") for page in ROOT.glob("docs/*.md")}
    counted = {page.name: text.count("\n") for page, text in written.items() if "made by the tests" not in text}
    assert [name for name, lines in counted.items() if lines > LINES_OF_A_PAGE] == []
