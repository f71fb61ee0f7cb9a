"""The option `--seeds`, and which tests share a process when several processes run them."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that selects seeds."""
    parser.addoption("--seeds", default="0-99", metavar="A-B", help="the seeds of random faults to run (0-99)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a module in one process, except seeds, for `--dist loadgroup`."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
