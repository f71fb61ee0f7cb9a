"""Lanes as they are announced by their workers and seen by routers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Announcement", "Facts", "Fault", "LaneView"]


@dataclass(frozen=True)
class Announcement:
    """What a worker says of its lane with every beat. `limit`: requests the lane serves at once."""

    lane: str
    provider: str
    endpoint: str
    models: tuple[str, ...]
    limit: int


@dataclass(frozen=True)
class Facts:
    """What does not change while a worker lives, said once. `versions`: of `tokenlane`, `python`, `arq` and so on."""

    host: str
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """The newest error of a worker's back end: the error's code, never its text. `at`: by the loop's clock, in s."""

    code: str
    at: float


@dataclass(frozen=True)
class LaneView:
    """A lane as routers see it. `live`: one of its workers beats and takes new work. `seen_ms` is server time."""

    name: str
    provider: str
    endpoint: str
    models: tuple[str, ...]
    limit: int
    queued: int
    live: bool
    seen_ms: int

    @property
    def credit(self) -> int:
        """How many more requests the lane takes now."""
        return max(0, self.limit - self.queued) if self.live else 0
