"""The codes for why attempts ended are the same in Python, in the scripts and in the documentation."""

from __future__ import annotations

import re
from importlib import resources
from typing import get_args

from tests.repository import ROOT

from tokenlane.routing.contract.attempt_end import LapseReason, NotResumedReason, StopReason

IN_HISTORIES = {*get_args(StopReason), *get_args(NotResumedReason), *get_args(LapseReason)} - {"stale"}
"""A stale attempt is in its request's history already, with what ended it."""


def test_the_script_writes_the_reasons_of_lapsed_leases() -> None:
    """No other process records why they lapsed."""
    script = resources.files("tokenlane.routing.store").joinpath("lua", "requeue.lua").read_text()
    assert all(f"'{reason}'" in script for reason in get_args(LapseReason))


def test_operators_read_what_each_code_means() -> None:
    """The table under the output of `tokenlane requests show` has all of them."""
    rows = re.findall(r"^\| ([^|]+) \|", (ROOT / "docs" / "requests.md").read_text(), re.MULTILINE)
    assert {code for row in rows for code in re.findall(r"`(\w+)`", row)} >= IN_HISTORIES
