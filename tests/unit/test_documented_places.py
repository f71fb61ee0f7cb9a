"""The documentation leads somewhere: its links, and the modules and tests that it names, are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.repository import ROOT

PAGES = sorted({ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")})
WRITTEN_PAGES = [page for page in PAGES if page.name != "modules.md" and page.is_relative_to(ROOT / "docs")]
"""All but the generated list of modules, whose sentences name paths as the modules do."""
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE_PATH = re.compile(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|lua)|(?:[a-z_]+/){2,})`")
"""A module, script or room, by its path."""
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
    """Whether there is such a file or folder: by its path, or for a module by its component and what follows."""
    component = path.partition("/")[0]
    return any(place.exists() for place in (ROOT / path, ROOT / component / "tokenlane" / path, LUA / path))


def missing_paths(page: Path) -> list[str]:
    """The modules, scripts and rooms that a page names and that do not exist."""
    return [path for path in CODE_PATH.findall(page.read_text(encoding="utf-8")) if not exists(path)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Relative links lead to files and headings of the repository."""
    assert list(broken_links(page)) == []


@pytest.mark.parametrize("page", WRITTEN_PAGES, ids=lambda page: page.stem)
def test_every_module_and_test_that_is_named_exists(page: Path) -> None:
    """A page that names modules, scripts, rooms and tests is changed with them."""
    assert missing_paths(page) == []


def test_a_path_that_does_not_exist_is_noticed(tmp_path: Path) -> None:
    """The check of paths finds modules, scripts and rooms."""
    page = tmp_path / "page.md"
    page.write_text(
        "`routing/gone.py`, `lua/gone.lua`, `routing/gone/`, `routing/router.py`, `lua/submit.lua`, `routing/store/`"
    )
    assert missing_paths(page) == ["routing/gone.py", "lua/gone.lua", "routing/gone/"]


@pytest.mark.parametrize("component", ["config", "routing", "producer", "worker", "benches"])
def test_a_component_lists_its_rooms(component: str) -> None:
    """The README of a component names every room at its top, and only modules and rooms that exist."""
    home = ROOT / component / "tokenlane" / component
    rows = re.findall(
        r"^\| `(?:· )?([^`]+)` *\|", (ROOT / component / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert [row for row in rows if not any(home.rglob(row.rstrip("/").rpartition("/")[2]))] == []
    rooms = {f"{path.parent.name}/" for path in home.glob("*/__init__.py")}
    assert rooms - set(rows) == set()


def test_every_guarantee_names_its_mechanism_and_tests() -> None:
    """Each section says how the promise is kept, where, and which tests show it."""
    sections = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8").split("\n## ")[1:]
    assert sections
    for section in sections:
        assert re.findall(r"^- \*\*(.+)\.\*\*", section, re.MULTILINE) == ["How", "Where", "Tests"], section
        assert re.search(r"Tests\.\*\* `tests/", section), section


def test_every_page_is_in_the_index() -> None:
    """The index of the documentation leads to each page."""
    index = ROOT / "docs" / "README.md"
    linked = set(LINK.findall(index.read_text(encoding="utf-8")))
    assert {page.name for page in ROOT.glob("docs/*.md")} - {index.name} - linked == set()


def test_pages_are_short() -> None:
    """A page is one concept. Lists that the tests generate may be longer."""
    written = {page: page.read_text(encoding="utf-8") for page in ROOT.glob("docs/*.md")}
    counted = {page.name: text.count("\n") for page, text in written.items() if "made by the tests" not in text}
    assert [name for name, lines in counted.items() if lines > LINES_OF_A_PAGE] == []
