from __future__ import annotations

import subprocess
import sys

import pytest
from tests.repository import ROOT


def test_imports_respect_the_borders() -> None:
    """Every border between components that pyproject.toml states is kept."""
    # In a process of its own: import-linter switches off the loggers that exist.
    linter = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    linted = subprocess.run(linter, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert linted.returncode == 0, linted.stdout
    assert "0 broken" in linted.stdout


def test_the_namespace_has_no_module_of_its_own() -> None:
    """No component holds tokenlane/__init__.py, which would hide the others, and each leaf says that it is typed."""
    for component in ("config", "routing", "producer", "worker", "benches"):
        namespace = ROOT / component / "tokenlane"
        assert [path.name for path in namespace.iterdir() if path.name != "__pycache__"] == [component]
        assert (namespace / component / "py.typed").exists()


@pytest.mark.parametrize("component", ["config", "routing", "producer", "worker", "benches"])
def test_each_component_tells_its_modules(component: str) -> None:
    """A component's README names every module and folder of it."""
    readme = (ROOT / component / "README.md").read_text(encoding="utf-8")
    parts = [path for path in (ROOT / component / "tokenlane" / component).iterdir() if path.name[0] not in "_."]
    # A folder that has been renamed may still hold compiled modules.
    names = [f"{path.name}/" for path in parts if any(path.rglob("*.py"))]
    names += [path.name for path in parts if path.suffix == ".py"]
    assert [name for name in sorted(names) if f"`{name}`" not in readme] == []
