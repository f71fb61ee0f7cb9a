"""Measures attempts for the metrics that only a worker has: waits, times to tokens, durations and tokens."""

from __future__ import annotations

from collections.abc import Iterator

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.watch.metrics.samples import Histogram, Histograms, Names, Sample
from tokenlane.worker.lane.running_attempts import AttemptEnded


class AttemptTimes:
    """The histograms of a lane's attempts. Commands for models, which may take hours, are not among them."""

    def __init__(self, lane: LaneSettings) -> None:
        self._lane, self._provider = lane.name, lane.provider
        self._roles, self._models = Names(), Names()
        self._waits = Histograms("tokenlane_queue_wait_seconds")
        self._first_chunks = Histograms("gen_ai_client_operation_time_to_first_chunk_seconds")
        self._per_token = Histograms("tokenlane_time_per_output_token_seconds")
        self._durations = Histograms("gen_ai_client_operation_duration_seconds")
        self._usage = Histograms("gen_ai_client_token_usage")

    def observe(self, event: AttemptEnded) -> None:
        """Measure one ended attempt."""
        envelope, usage = event.envelope, event.usage
        kind = KINDS[envelope.kind]
        if event.is_first:
            self._waits.of(self._roles.of(envelope.role), envelope.priority).observe(event.waited_ms / 1000)
        if kind.is_long:
            return
        labels = (self._lane, kind.operation, self._provider, self._models.of(event.model))
        self._durations.of(*labels, event.code).observe(usage.total_ms / 1000)
        if event.first_token_ms is not None:
            self._first_chunks.of(*labels).observe(event.first_token_ms / 1000)
        if usage.prompt_tokens:
            self._usage.of(*labels, "input").observe(usage.prompt_tokens)
        if usage.completion_tokens:
            self._usage.of(*labels, "output").observe(usage.completion_tokens)
        # The tokens of a continued answer include those of the attempt that had begun it.
        if event.first_token_ms is not None and usage.completion_tokens > 1 and not event.is_continued:
            rest_ms = usage.total_ms - event.first_token_ms
            self._per_token.of(*labels).observe(rest_ms / 1000 / (usage.completion_tokens - 1))

    def samples(self, intervals: Histogram) -> Iterator[Sample]:
        """All histograms, with that of the lane's delivery intervals."""
        for histograms in (self._waits, self._first_chunks, self._per_token, self._durations, self._usage):
            yield from histograms
        yield Sample("tokenlane_delivery_interval_seconds", (self._lane,), intervals)
