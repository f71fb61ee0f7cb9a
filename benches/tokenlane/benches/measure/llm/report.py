"""The report of `bench llm`: for each model its runs, their percentiles, and what its server held meanwhile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Self

from pydantic import BaseModel, computed_field

CERTAIN_P99 = 100
"""The p99 of fewer runs is their maximum."""


class Spread(BaseModel):
    """The spread of the figures of some runs. `p50`: their median. `p99`: the least that at most 1 % of them exceed."""

    p50: float
    p99: float
    least: float
    most: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Self:
        """Return the spread of at least one figure."""
        ordered = sorted(figures)
        p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
        return cls(p50=median(ordered), p99=p99, least=ordered[0], most=ordered[-1])


class Run(BaseModel):
    """One answer. The times run from sending the request to the arrival of the first and of the last token.

    `tokens`, `prompt_tokens`: as the server counted them. `is_counted`: False if it did not, so that `tokens` is the
    number of pieces that arrived. `cached_tokens`: those of the prompt that the server had kept from earlier requests.
    """

    first_token_ms: float
    total_ms: float
    tokens: int
    is_counted: bool
    prompt_tokens: int
    cached_tokens: int

    @property
    def tokens_per_s(self) -> float:
        """How fast the tokens after the first came; of an answer that came all at once, how fast the answer came."""
        return 1000 * (self.tokens - 1) / ((self.total_ms - self.first_token_ms) or self.total_ms)


class Measured(BaseModel):
    """A model on a model server, and its runs.

    `provider`, `endpoint`, `model`, `version`, `quantisation`: empty if not known; a server that the measurement starts
    has no `endpoint`. `is_forced`: whether the server was made to generate all tokens. `memory_mb`: resident memory of
    all processes of the server after the runs, `gpu_memory_mb`: their memory on GPUs; None if not known.
    `others_cores`: how many cores other programs kept busy during the runs; None if not known. `problem`: why there are
    not all runs, or none; empty if there are all.
    """

    provider: str
    endpoint: str = ""
    model: str = ""
    version: str = ""
    quantisation: str = ""
    is_forced: bool = False
    runs: list[Run] = []
    memory_mb: float | None = None
    gpu_memory_mb: float | None = None
    others_cores: float | None = None
    problem: str = ""

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def first_token_ms(self) -> Spread | None:
        """The times to the first token; None without runs."""
        return Spread.of([run.first_token_ms for run in self.runs]) if self.runs else None

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def total_ms(self) -> Spread | None:
        """The times to the last token; None without runs."""
        return Spread.of([run.total_ms for run in self.runs]) if self.runs else None

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def tokens_per_s(self) -> Spread | None:
        """How fast tokens came after the first; None without runs. Its p99 is a high speed, not a bad one."""
        return Spread.of([run.tokens_per_s for run in self.runs]) if self.runs else None


class LlmReport(BaseModel):
    """The report of a whole measurement. `load_average`: of the minute before it; None if this system has none.

    `limit_s`: the longest time that an answer could take. A model that takes longer is not asked again.
    """

    measured_at: str
    machine: str
    gpus: list[str]
    versions: str
    cores: int
    load_average: float | None
    runs: int
    warm_up: int
    seed: int
    limit_s: float
    tokens: int
    measured: list[Measured]
