"""The figures of the gateway's measurement, their bars, and both as a table."""

from __future__ import annotations

from pydantic import BaseModel

from tokenlane.benches.measure.figures import Bar, Times, line_of

FIRST_LIMIT_MS = 1.0
DELTA_LIMIT_US = 25.0


class AtStreams(BaseModel):
    """The figures at one number of streams.

    Args:
        client_first_ms: the time of the first token through a `Client`.
        gateway_first_ms: the same through the gateway.
        agent_us: the CPU time of an agent that reads with a `Client`, in microseconds a token.
        gateway_us: the same of the gateway.
        hop_us: how much more the gateway takes than the agent: the median of the pairs of rounds.
    """

    streams: int
    tokens: int
    answers: int
    client_first_ms: Times
    gateway_first_ms: Times
    agent_us: float
    gateway_us: float
    hop_us: float


class GatewayCost(BaseModel):
    """The report of a whole measurement."""

    measured_at: str
    machine: str
    versions: str
    levels: list[AtStreams]

    @property
    def bars(self) -> list[Bar]:
        """The bars: the first token at one stream, and the CPU time of a token at 64 streams."""
        by_streams = {at.streams: at for at in self.levels}
        first = by_streams[1].gateway_first_ms.p50 - by_streams[1].client_first_ms.p50
        return [
            Bar(name="added time to the first token at 1 stream, p50, in ms", measured=first, limit=FIRST_LIMIT_MS),
            Bar(name="added CPU a token at 64 streams, in us", measured=by_streams[64].hop_us, limit=DELTA_LIMIT_US),
        ]


def table(report: GatewayCost) -> str:
    """Return the report as Markdown, for benches/README.md."""
    lines = [
        f"{report.measured_at}, {report.machine}; {report.versions}.",
        "",
        "| streams | answers | first by `Client`, ms | by the gateway, ms | agent, us a token | gateway, us a token |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for at in report.levels:
        first = (f"{times.p50:.2f} / {times.p99:.2f}" for times in (at.client_first_ms, at.gateway_first_ms))
        cells = (str(at.streams), f"{at.answers} x {at.tokens}", *first, f"{at.agent_us:.0f}", f"{at.gateway_us:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *map(line_of, report.bars)])
