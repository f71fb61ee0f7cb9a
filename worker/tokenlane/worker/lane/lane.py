"""The lane that a worker serves, as one object with all that its attempts share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tokenlane.config.settings.values import TokenSpans
from tokenlane.routing.hooks.functions import NO_HOOKS, Hooks
from tokenlane.routing.store.hub import Hub
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.metrics.samples import Sample
from tokenlane.worker.embeddings import Embedder
from tokenlane.worker.hooks.prompt_plugins import PromptPlugins
from tokenlane.worker.model_management.lane_models import LaneModels
from tokenlane.worker.providers import LlmProvider

from .availability import Availability
from .heartbeat import Heartbeat
from .model_server.readiness import Readiness
from .publisher import Publisher
from .running_attempts import Observer, Runs
from .timings import TIMINGS, Timings


@dataclass(frozen=True)
class Lane:
    """What all attempts on a lane share.

    `worker`: the worker's name in the pool. `transcripts`: whether requests and answers are logged. `observers`: called
    at the end of each attempt. `measured`: returns the metrics that only this worker measures. `unread_queues`: the
    kinds of work whose queue could not be read at the last try. `token_spans`: of which requests the batches of the
    answer are recorded as spans. `hooks`: the functions through which requests and answers pass. `plugins`: they
    change the prompts of roles.
    """

    pool: Pool
    hub: Hub
    worker: str
    availability: Availability
    provider: LlmProvider
    runs: Runs
    publisher: Publisher
    heartbeat: Heartbeat
    models: LaneModels
    embedder: Embedder
    readiness: Readiness
    transcripts: bool = False
    observers: tuple[Observer, ...] = ()
    timings: Timings = TIMINGS
    measured: Callable[[], Iterable[Sample]] = tuple
    unread_queues: set[str] = field(default_factory=set)
    token_spans: TokenSpans = "sampled"
    hooks: Hooks = NO_HOOKS
    plugins: PromptPlugins = field(default_factory=PromptPlugins)

    @property
    def name(self) -> str:
        return self.availability.announcement.lane
