"""Time spans in options."""

from __future__ import annotations

import pytest
import typer

from tokenlane.config.cli.time_spans import time_span


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("90s", 90_000), ("10m", 600_000), ("10 min", 600_000), ("1.5h", 5_400_000), ("2d", 172_800_000), ("5ms", 5)],
)
def test_a_number_with_a_unit(text: str, milliseconds: int) -> None:
    """Units from milliseconds to days."""
    assert time_span(text) == milliseconds


@pytest.mark.parametrize("text", ["", "10", "m", "-5s", "10 weeks", "1e3s", "1,5h", "٣s"])
def test_anything_else_is_refused(text: str) -> None:
    """A number without a unit is refused, too: it might mean seconds or minutes."""
    with pytest.raises(typer.BadParameter):
        time_span(text)
