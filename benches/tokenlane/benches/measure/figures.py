"""What `bench overhead` reports: its figures, the bars they must hold, and both as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import quantiles
from typing import NamedTuple

from pydantic import BaseModel, computed_field


class Times(BaseModel):
    """Milliseconds."""

    p50: float
    p99: float
    samples: int

    @classmethod
    def of(cls, times_ms: Sequence[float], less: float = 0) -> Times:
        """The times, each of them less that."""
        cuts = quantiles(times_ms, n=100, method="inclusive")
        return cls(p50=cuts[49] - less, p99=cuts[98] - less, samples=len(times_ms))


class Cpu(BaseModel):
    """Microseconds of CPU for each token, everything a process does counted in: the median of the rounds.

    `…_over_bare`: of each round, as a multiple of what the bare client took in the round before it.
    """

    bare: float
    worker: float
    agent: float
    server: float
    backend: float
    worker_over_bare: float
    worker_and_server_over_bare: float


class AtStreams(BaseModel):
    """What was measured at one number of streams. `added_…`: through tokenlane, less the median of directly.
    `floor_ms`: in the same loop as the requests, one of each by turns."""

    streams: int
    tokens: int
    answers: int
    first_ms: float
    spacing_ms: float
    floor_ms: Times | None
    direct_first_ms: Times
    added_first_ms: Times
    direct_token_ms: Times
    added_token_ms: Times
    cpu_us: Cpu


class Idle(BaseModel):
    """CPU while nothing is asked, in percent of a core."""

    worker: float
    server: float


class Bar(BaseModel):
    """A figure that must not be higher than its limit."""

    name: str
    measured: float
    limit: float

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def held(self) -> bool:
        """Whether it is not."""
        return self.measured <= self.limit


class Overhead(BaseModel):
    """A whole measurement."""

    measured_at: str
    machine: str
    versions: str
    levels: list[AtStreams]
    idle: Idle
    bars: list[Bar]


class _OfLevel(NamedTuple):
    """A figure of the level with so many streams."""

    streams: int
    name: str
    figure: str
    limit: float


_OF_LEVELS = (
    _OfLevel(64, "worker's CPU a token, in bare clients", "worker_over_bare", 1.58),
    _OfLevel(16, "worker's and server's CPU a token, in bare clients", "worker_and_server_over_bare", 2.5),
    _OfLevel(64, "worker's and server's CPU a token, in bare clients", "worker_and_server_over_bare", 1.97),
)
FIRST_P50_FLOORS = 7.0
FIRST_P99_FLOORS = 10.0
TOKEN_P99_MS = 30.0
TOKEN_P99_STREAMS = 256
IDLE_WORKER_PERCENT = 1.0
IDLE_SERVER_PERCENT = 0.5


def bars_of(levels: Sequence[AtStreams], idle: Idle) -> Iterator[Bar]:
    """The bars of what was measured, each on one figure."""
    for at in levels:
        if (floor := at.floor_ms) is not None:
            name = f"added time to first token at {at.streams} stream, in floors"
            added = at.added_first_ms
            yield Bar(name=f"{name}, p50", measured=added.p50 / floor.p50, limit=FIRST_P50_FLOORS)
            yield Bar(name=f"{name}, p99", measured=added.p99 / floor.p99, limit=FIRST_P99_FLOORS)
        for streams, name, figure, limit in _OF_LEVELS:
            if at.streams == streams:
                yield Bar(name=f"{name}, at {streams} streams", measured=getattr(at.cpu_us, figure), limit=limit)
        if at.streams == TOKEN_P99_STREAMS:
            name = f"added time to a token at {TOKEN_P99_STREAMS} streams, p99, in ms"
            yield Bar(name=name, measured=at.added_token_ms.p99, limit=TOKEN_P99_MS)
    name = "CPU of a worker that routes, while nothing is asked, in percent of a core"
    yield Bar(name=name, measured=idle.worker, limit=IDLE_WORKER_PERCENT)
    yield Bar(name="the server's, meanwhile", measured=idle.server, limit=IDLE_SERVER_PERCENT)


def table(found: Overhead) -> str:
    """The measurement as Markdown, for benches/README.md."""
    rows = [
        "| streams | answers | tokens at | floor | direct, first | added to first | direct, token | added to token "
        "| bare | worker | agent | server | back end |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for at in found.levels:
        times = (at.floor_ms, at.direct_first_ms, at.added_first_ms, at.direct_token_ms, at.added_token_ms)
        cpu = at.cpu_us
        cells = [
            str(at.streams),
            f"{at.answers} x {at.tokens}",
            f"{at.first_ms:g} + {at.spacing_ms:g}",
            *("" if time is None else f"{time.p50:.2f} / {time.p99:.2f}" for time in times),
            *(f"{used:.0f}" for used in (cpu.bare, cpu.worker, cpu.agent, cpu.server, cpu.backend)),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    bars = [
        f"- {bar.name}: {bar.measured:.2f}, bar {bar.limit:g}: {'held' if bar.held else 'FALLS SHORT'}"
        for bar in found.bars
    ]
    return "\n".join(
        [
            f"{found.measured_at}, {found.machine}; {found.versions}.",
            "",
            "Times are p50 / p99 in milliseconds, CPU is microseconds a token.",
            "",
            *rows,
            "",
            *bars,
        ]
    )
