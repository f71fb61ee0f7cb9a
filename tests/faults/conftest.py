"""The option `--seeds`, the marker `kills`, and which tests share a process when several processes run them."""

from __future__ import annotations

from pathlib import Path

import pytest

_FOLDER = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that selects seeds."""
    parser.addoption("--seeds", default="0-99", metavar="A-B", help="the seeds of random faults to run (0-99)")


@pytest.hookimpl(tryfirst=True)  # before `-m kills` deselects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests. For `--dist loadgroup`, keep a module's tests, except seeds, in one process."""
    for item in items:
        if item.path.is_relative_to(_FOLDER):
            item.add_marker(pytest.mark.kills)
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
