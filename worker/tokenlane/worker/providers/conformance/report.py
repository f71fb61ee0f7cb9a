"""What the checks found, as values and as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["works", "refused", "open", "failed"]
"""It works; it is not offered, and that is said; the server decides, or nothing tells; a promise is broken."""


@dataclass(frozen=True)
class Finding:
    """What one check found. `said`: more of it, for people."""

    check: str
    outcome: Outcome
    said: str = ""


@dataclass(frozen=True)
class Report:
    """What all checks found of one provider's model."""

    provider: str
    model: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """No promise is broken."""
        return all(finding.outcome != "failed" for finding in self.findings)

    def table(self) -> str:
        """A line for each check."""
        width = max((len(finding.check) for finding in self.findings), default=0)
        lines = [f"{each.check:<{width}}  {each.outcome:<7}  {each.said}".rstrip() for each in self.findings]
        return "\n".join([f"provider {self.provider}, model {self.model}", *lines])
