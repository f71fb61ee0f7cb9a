"""Checks that a provider keeps its promises, against a real or simulated server, for authors of providers.

    python -m tokenlane.worker.providers.conformance --provider NAME --endpoint URL --model NAME

or, in a test of your own:

    report = await check_provider(provider, "my-model")
    assert report.passed, report.table()

Abilities that a provider declares must work. Abilities that it does not declare must be refused, as far as the provider
decides; how a server treats an option that it does not know is reported, but does not fail the check.
"""

from __future__ import annotations

from .checks import CHECKS, CheckResult, Outcome, Report, check_provider

__all__ = ["CHECKS", "CheckResult", "Outcome", "Report", "check_provider"]
