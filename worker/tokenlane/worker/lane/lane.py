"""A lane as its worker serves it."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenlane.routing.store.hub import Hub
from tokenlane.routing.store.pool import Pool
from tokenlane.worker.embeddings import Embedder
from tokenlane.worker.models.lane_models import LaneModels
from tokenlane.worker.providers import LlmProvider

from .availability import Availability
from .heartbeat import Lease
from .publisher import Publisher
from .readiness import Readiness
from .running_attempts import Observer, Runs
from .timings import Timings


@dataclass(frozen=True)
class Lane:
    """What all jobs of a worker share. `availability`: what the lane takes now.
    `transcripts`: log requests and answers. `observers`: of attempts that end."""

    pool: Pool
    hub: Hub
    worker: str
    availability: Availability
    provider: LlmProvider
    runs: Runs
    publisher: Publisher
    lease: Lease
    models: LaneModels
    embedder: Embedder
    readiness: Readiness
    transcripts: bool = False
    observers: tuple[Observer, ...] = ()
    timings: Timings = field(default_factory=Timings)

    @property
    def name(self) -> str:
        return self.availability.announcement.lane
