from __future__ import annotations

import pytest

from tokenlane.routing.commands.top import _sparkline
from tokenlane.routing.watch.live.trends import Sample


@pytest.mark.parametrize(
    ("seconds_ago", "drawn"),
    [
        (range(119, -1, -1), "████████████████████"),
        (range(59, -1, -1), "          ██████████"),
        ((*range(119, 59, -1), *range(29, -1, -1)), "██████████     █████"),
        (range(200, 170, -1), "               █████"),
        ((), "-"),
    ],
)
def test_the_line_of_a_role_is_blank_where_nobody_looked(seconds_ago: range | tuple[int, ...], drawn: str) -> None:
    """Its right end is the newest sample; during an outage of Redis there are none."""
    samples = [Sample(1_000_000 - 1_000 * ago, 3, 0.0, 0.0) for ago in seconds_ago]
    assert _sparkline(samples) == drawn


def test_the_line_of_a_role_is_as_high_as_its_most_waiting_requests() -> None:
    """Each character stands for the most of its six seconds; what is older than two minutes does not count."""
    waiting = {0: 1, 3: 7, 6: 0, 12: 14, 130: 99}
    samples = [Sample(1_000_000 - 1_000 * ago, count, 0.0, 0.0) for ago, count in sorted(waiting.items(), reverse=True)]
    assert _sparkline(samples) == f"{' ' * 17}█▁▅"
