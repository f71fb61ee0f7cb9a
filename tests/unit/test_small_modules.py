"""Modules that were promised to be small stay so."""

from __future__ import annotations

from pathlib import Path

import pytest

PRODUCER = Path(__file__).parents[2] / "producer" / "tokenlane" / "producer"


@pytest.mark.parametrize(
    ("module", "lines"), [("sync.py", 150), ("testing.py", 80), ("mock.py", 80), ("spoken.py", 80)]
)
def test_a_module_is_under_its_limit(module: str, lines: int) -> None:
    """What is easy to read whole is easy to trust: a client without asyncio, and a pool for tests."""
    assert len((PRODUCER / module).read_text(encoding="utf-8").splitlines()) < lines
