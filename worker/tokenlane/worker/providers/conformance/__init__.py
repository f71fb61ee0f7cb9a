"""Checks that a provider keeps its promises, against a real or simulated server, for authors of providers.

    python -m tokenlane.worker.providers.conformance --provider NAME --endpoint URL --model NAME

or in a test:

    report = await check_provider(provider, "my-model")
    assert report.passed, report.table()

Abilities that a provider declares must work. Abilities that it does not declare must be refused if the provider decides
about them. How the server treats options that it does not know is reported, but fails no check.
"""

from __future__ import annotations

from .checks import CHECKS, CheckResult, Outcome, Report, check_provider

__all__ = ["CHECKS", "CheckResult", "Outcome", "Report", "check_provider"]
