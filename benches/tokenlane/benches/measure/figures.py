"""The figures that `bench overhead` reports, and the bars that they must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import quantiles

from pydantic import BaseModel, computed_field


class Times(BaseModel):
    """Percentiles of times, in milliseconds."""

    p50: float
    p99: float
    samples: int

    @classmethod
    def of(cls, times_ms: Sequence[float], less: float = 0) -> Times:
        """Return the percentiles of times, each reduced by `less`."""
        cuts = quantiles(times_ms, n=100, method="inclusive")
        return cls(p50=cuts[49] - less, p99=cuts[98] - less, samples=len(times_ms))


class Cpu(BaseModel):
    """The CPU time of each process, in microseconds a token: the median of the rounds.

    `…_over_bare`: the CPU time as a multiple of the bare client's in the round before.
    """

    bare: float
    worker: float
    agent: float
    server: float
    backend: float
    worker_over_bare: float
    worker_and_server_over_bare: float


class AtStreams(BaseModel):
    """The figures at one number of streams.

    `added_…`: the times through tokenlane minus the median of direct requests. `floor_ms`: measured once before each
    request, in the same event loop.
    """

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
    """The CPU time used without requests, in percent of a core."""

    worker: float
    server: float


class Bar(BaseModel):
    """A figure and its limit."""

    name: str
    measured: float
    limit: float

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def held(self) -> bool:
        """Whether the figure is at or below its limit."""
        return self.measured <= self.limit


class Overhead(BaseModel):
    """The report of a whole measurement."""

    measured_at: str
    machine: str
    versions: str
    levels: list[AtStreams]
    idle: Idle
    bars: list[Bar]


def _first_in_floors(percentile: str) -> Callable[[AtStreams], float]:
    return lambda at: float(getattr(at.added_first_ms, percentile) / getattr(at.floor_ms, percentile))


_AT_STREAMS: Sequence[tuple[int, str, Callable[[AtStreams], float], float]] = (
    (1, "added time to first token at 1 stream, in floors, p50", _first_in_floors("p50"), 7.0),
    (1, "added time to first token at 1 stream, in floors, p99", _first_in_floors("p99"), 10.0),
    (
        16,
        "worker's and server's CPU a token, in bare clients, at 16 streams",
        lambda at: at.cpu_us.worker_and_server_over_bare,
        2.4,
    ),
    (64, "worker's CPU a token, in bare clients, at 64 streams", lambda at: at.cpu_us.worker_over_bare, 1.58),
    (
        64,
        "worker's and server's CPU a token, in bare clients, at 64 streams",
        lambda at: at.cpu_us.worker_and_server_over_bare,
        1.95,
    ),
    (256, "added time to a token at 256 streams, p99, in ms", lambda at: at.added_token_ms.p99, 40.0),
)


def bars_of(levels: Sequence[AtStreams], idle: Idle) -> Iterator[Bar]:
    """Yield the bars, one for each checked figure."""
    by_streams = {at.streams: at for at in levels}
    for streams, name, figure, limit in _AT_STREAMS:
        yield Bar(name=name, measured=figure(by_streams[streams]), limit=limit)
    name = "CPU of a worker that routes, while nothing is asked, in percent of a core"
    yield Bar(name=name, measured=idle.worker, limit=1.0)
    yield Bar(name="the server's, meanwhile", measured=idle.server, limit=0.5)


def line_of(bar: Bar) -> str:
    """Return a bar as a line of Markdown."""
    return f"- {bar.name}: {bar.measured:.2f}, bar {bar.limit:g}: {'held' if bar.held else 'FALLS SHORT'}"


def table(overhead: Overhead) -> str:
    """Return the report as Markdown, for benches/README.md."""
    lines = [
        f"{overhead.measured_at}, {overhead.machine}; {overhead.versions}.",
        "",
        "Times are p50 / p99 in milliseconds, CPU is microseconds a token.",
        "",
        "| streams | answers | tokens at | floor | direct, first | added to first | direct, token | added to token "
        "| bare | worker | agent | server | model server |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for at in overhead.levels:
        times = (at.floor_ms, at.direct_first_ms, at.added_first_ms, at.direct_token_ms, at.added_token_ms)
        cpu = at.cpu_us
        cells = [
            str(at.streams),
            f"{at.answers} x {at.tokens}",
            f"{at.first_ms:g} + {at.spacing_ms:g}",
            *("" if time is None else f"{time.p50:.2f} / {time.p99:.2f}" for time in times),
            *(f"{used:.0f}" for used in (cpu.bare, cpu.worker, cpu.agent, cpu.server, cpu.backend)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    return "\n".join([*lines, *map(line_of, overhead.bars)])
