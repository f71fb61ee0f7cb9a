from __future__ import annotations

import pytest
from tests.faults.history import Accepted, CancelAsked, Ended, Event, Got, Sent, check_history

SENT, ACCEPTED, ASKED = Sent("r", "abc"), Accepted("r"), CancelAsked("r")
A, B, C = Got("r", 5, 0, "a"), Got("r", 5, 1, "b"), Got("r", 5, 2, "c")
DONE, BROKEN, CANCELLED = Ended("r", "completed"), Ended("r", "interrupted", "ab"), Ended("r", "cancelled")

ANEW, ABANDONED = Got("r", 6, 0, "a", restarted=True), Ended("r", "abandoned")
MAY_RESTART = Sent("r", "abc", restarts=True)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [SENT, ACCEPTED, A, B, C, DONE],
        [SENT, ACCEPTED, A, B, BROKEN],
        [SENT, ACCEPTED, A, Got("r", 6, 1, "b"), Got("r", 7, 2, "c"), DONE],
        [SENT, ACCEPTED, A, ASKED, CANCELLED],
        [SENT, ACCEPTED, A, ABANDONED],
        [SENT, ABANDONED],
        [MAY_RESTART, ACCEPTED, A, B, ANEW, Got("r", 6, 1, "b"), Got("r", 6, 2, "c"), DONE],
        [MAY_RESTART, ACCEPTED, A, B, C, ANEW, Got("r", 6, 1, "b"), BROKEN],
        [SENT, ACCEPTED, A, ASKED, B, C, DONE],
        [SENT, Ended("r", "pool_unavailable")],
        [SENT, ACCEPTED, A, Sent("s", ""), Accepted("s"), B, Ended("s", "completed"), C, DONE],
    ],
)
def test_good_histories(history: list[Event]) -> None:
    """Nothing is said of what is right."""
    assert check_history(history) == []


@pytest.mark.parametrize(
    ("history", "says"),
    [
        ([A, DONE], "not sent"),
        ([SENT, SENT, ACCEPTED, A, B, C, DONE], "sent again"),
        ([SENT, ACCEPTED, A, B, C], "ended 0 times"),
        ([SENT, ACCEPTED, A, B, C, DONE, DONE], "ended 2 times"),
        ([SENT, ACCEPTED, A, B, C, DONE, C], "the end is not its last"),
        ([SENT, ACCEPTED, A, B, DONE], "completed with 'ab'"),
        ([SENT, ACCEPTED, A, C, DONE], "positions"),
        ([SENT, ACCEPTED, A, A, B, C, DONE], "positions"),
        ([SENT, ACCEPTED, B, A, C, DONE], "positions"),
        ([SENT, ACCEPTED, A, Got("r", 6, 1, "b"), C, DONE], "outdated attempt"),
        ([SENT, ACCEPTED, A, Got("r", 5, 1, "x"), BROKEN], "not a part"),
        ([SENT, ACCEPTED, A, B, ANEW, Got("r", 6, 1, "b"), Got("r", 6, 2, "c"), DONE], "begun anew"),
        ([MAY_RESTART, ACCEPTED, A, B, ANEW, DONE], "completed with 'a'"),
        ([MAY_RESTART, ACCEPTED, Got("r", 5, 0, "x"), ANEW, Got("r", 6, 1, "b"), BROKEN], "not a part"),
        ([SENT, ACCEPTED, A, B, Got("r", 5, 0, "a"), Got("r", 5, 1, "b"), C, DONE], "positions"),
        ([SENT, ACCEPTED, A, C, ABANDONED], "positions"),
        ([SENT, ACCEPTED, A, BROKEN], "interrupted with 'ab' after 'a'"),
        ([SENT, ACCEPTED, A, Ended("r", "interrupted", None)], "interrupted with None"),
        ([SENT, ACCEPTED, A, CANCELLED], "cancelled by nobody"),
        ([SENT, ACCEPTED, A, Ended("r", "request_lost")], "ended as request_lost"),
        ([SENT, Ended("r", "request_lost")], "not accepted, but request_lost"),
        ([SENT, A, Ended("r", "queue_full")], "not accepted, but queue_full after 1"),
        ([SENT, A, B, C, DONE], "not accepted, but completed"),
    ],
)
def test_bad_histories(history: list[Event], says: str) -> None:
    """Every broken promise is told."""
    assert any(says in complaint for complaint in check_history(history)), check_history(history)
