from __future__ import annotations

from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[2]


def test_imports_respect_the_borders(capfd: pytest.CaptureFixture[str]) -> None:
    """Every border between components that pyproject.toml states is kept."""
    assert lint_imports(str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS, capfd.readouterr().out
    assert "0 broken" in capfd.readouterr().out


def test_the_namespace_has_no_module_of_its_own() -> None:
    """No component holds tokenlane/__init__.py, which would hide the others, and each leaf says that it is typed."""
    for component in ("config", "routing", "producer", "worker", "benches"):
        namespace = ROOT / component / "tokenlane"
        assert [path.name for path in namespace.iterdir() if path.name != "__pycache__"] == [component]
        assert (namespace / component / "py.typed").exists()
