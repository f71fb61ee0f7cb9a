"""Checks that a provider keeps its promises, for the author of one, against a real server or a stand-in for it.

    python -m tokenlane.worker.providers.conformance --provider NAME --endpoint URL --model NAME

or, in a test of your own:

    report = await check_provider(provider, "my-model")
    assert report.passed, report.table()

What a provider declares has to work. What it does not declare has to be refused, as far as it is the provider that
decides; what a server makes of an option it does not know is shown and decides nothing.
"""

from __future__ import annotations

from .checks import CHECKS, CheckResult, Outcome, Report, check_provider

__all__ = ["CHECKS", "CheckResult", "Outcome", "Report", "check_provider"]
