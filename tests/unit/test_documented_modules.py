"""The list of all modules in the documentation is what the modules say of themselves."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from tests.documents import GeneratedPart
from tests.repository import ROOT

COMPONENTS = ("config", "routing", "producer", "worker", "benches")
LIST = GeneratedPart(ROOT / "docs" / "modules.md", "modules")


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    return re.split(r"(?<=[.:])\s(?=[A-Z`])", paragraph)[0].rstrip(".:")


def modules() -> Iterator[Path]:
    """The product's modules, room by room."""
    for component in COMPONENTS:
        yield from sorted((ROOT / component / "tokenlane").rglob("*.py"), key=lambda path: (path.parent, path.name))


def generated() -> str:
    """A section for each room, with what it holds and a line for each of its modules."""
    lines: list[str] = []
    for folder, paths in groupby(modules(), key=lambda path: path.parent):
        lines += [f"## {folder.relative_to(ROOT).as_posix().replace('/tokenlane/', ': ', 1)}", ""]
        for path in paths:
            if path.name == "__init__.py":
                lines += [first_sentence(path) + ".", ""]
            else:
                lines.append(f"- `{path.name}`: {first_sentence(path)}.")
        lines.append("")
    return "\n".join(lines)


def test_every_module_is_described() -> None:
    """Each begins with a sentence about its subject."""
    assert [str(path.relative_to(ROOT)) for path in modules() if not first_sentence(path)] == []


def test_the_list_is_up_to_date() -> None:
    """After a change, `TOKENLANE_RECORD=1` writes it anew."""
    assert LIST.is_up_to_date(generated())
