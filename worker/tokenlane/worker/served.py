"""A lane as its worker serves it."""

from __future__ import annotations

from dataclasses import dataclass

from tokenlane.routing.hub import Hub
from tokenlane.routing.lanes import Announcement
from tokenlane.routing.pool import Pool

from .embeddings import Embedder
from .lease import Lease
from .lifecycle import LaneModels
from .providers import LlmProvider
from .publisher import Publisher
from .readiness import Readiness
from .runs import Runs

__all__ = ["Lane"]


@dataclass(frozen=True)
class Lane:
    """What all jobs of a worker share. `announcement`: what was said of the lane at first; `lease` knows what is said
    now. `transcripts`: log requests and answers."""

    pool: Pool
    hub: Hub
    worker: str
    announcement: Announcement
    provider: LlmProvider
    runs: Runs
    publisher: Publisher
    lease: Lease
    models: LaneModels
    embedder: Embedder
    readiness: Readiness
    transcripts: bool = False

    @property
    def name(self) -> str:
        return self.announcement.lane
