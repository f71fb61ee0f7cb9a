"""What `tokenlane chat` and `embed` say while nothing happens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from tokenlane.producer.commands import client_session
from tokenlane.routing.contract.errors import BadRequest, DeadlineExceeded

ALONE = "lane 'gpu1' lost its last worker {} s ago"
QUEUE = "no slot is free: 'gpu1' (4 of 4); number 2 of 9 in its queue, starts in about {} s"
OTHER = "its last attempt ended with provider_down; it is tried again in about {} s"


class Stream:
    """One that has these reasons to wait, one after another; the last ends who looks at it."""

    def __init__(self, reasons: Sequence[str | None]) -> None:
        self.waiting: str | None = None
        self._reasons = iter(reasons)

    async def next(self, _: float) -> None:
        """Stands for a pause."""
        try:
            self.waiting = next(self._reasons)
        except StopIteration:
            raise asyncio.CancelledError from None


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        ([None, None], []),
        ([ALONE.format(age) for age in (3, 5, 7)], [ALONE.format(3)]),
        (
            [ALONE.format(3), ALONE.format(5), QUEUE.format(7), OTHER.format(8)],
            [ALONE.format(3), QUEUE.format(7), OTHER.format(8)],
        ),
        ([QUEUE.format(3), None, QUEUE.format(9)], [QUEUE.format(3)]),
    ],
)
async def test_a_reason_is_told_once(
    reasons: list[str | None], told: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again only when it changes: not because a lane has been away for longer."""
    stream: Any = Stream(reasons)
    monkeypatch.setattr(asyncio, "sleep", stream.next)
    with suppress(asyncio.CancelledError):
        await client_session.explain_wait(stream)
    assert capsys.readouterr().err.splitlines() == [f"tokenlane: not started yet: {why}" for why in told]


def test_a_deadline_is_told_by_the_option_that_sets_it() -> None:
    """`--timeout` where the command has it; an error of another kind keeps its message."""
    late, other = DeadlineExceeded(), BadRequest("time_to_live_ms: must be positive")
    assert "--timeout" in client_session.error_text(late, has_timeout=True)
    assert "time_to_live_ms" not in client_session.error_text(late, has_timeout=True)
    assert client_session.error_text(late, has_timeout=False) == str(late)
    assert client_session.error_text(other, has_timeout=True) == str(other)
