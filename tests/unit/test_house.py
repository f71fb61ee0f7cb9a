"""What keeps the house easy to enter: small rooms, modules that fit in one reading, functions on one screen."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.repository import ROOT

MODULES_IN_A_ROOM = 13
LINES_OF_A_MODULE = 350
LINES_OF_MOST_FUNCTIONS = 22


def product(*suffixes: str) -> Iterator[Path]:
    """The product's files, by their endings."""
    for component in ("config", "routing", "producer", "worker", "benches"):
        for path in sorted((ROOT / component / "tokenlane").rglob("*")):
            if path.suffix in suffixes:
                yield path


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_room_is_flat() -> None:
    """No folder holds more modules than a reader takes in at a glance: beyond that it has more than one subject."""
    rooms = Counter(str(path.parent.relative_to(ROOT)) for path in product(".py") if path.name != "__init__.py")
    assert {room for room, count in rooms.items() if count > MODULES_IN_A_ROOM} == set()


def test_every_room_says_what_it_holds() -> None:
    """Every package begins with a sentence about its subject."""
    packages = [path for path in product(".py") if path.name == "__init__.py"]
    assert [path for path in packages if ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is None] == []


def test_a_module_is_read_in_one_go() -> None:
    """No module is longer than 350 lines."""
    long = [str(path.relative_to(ROOT)) for path in product(".py", ".lua") if lines(path) > LINES_OF_A_MODULE]
    assert long == []


def test_most_functions_fit_on_half_a_screen() -> None:
    """Nine of ten functions have at most 22 lines; the simulator, which is not what users run, is left out."""
    lengths = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for path in product(".py")
        if "simulator" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert lengths[len(lengths) * 9 // 10] <= LINES_OF_MOST_FUNCTIONS
