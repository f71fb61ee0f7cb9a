"""The figures of the comparison, and their tables."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from tokenlane.benches.measure.figures import Times


class AtStreams(BaseModel):
    """A peer's figures at one number of streams. `first_ms` and the times of CPU are None if every answer failed.

    Args:
        first_ms: the time of the request to the model server, plus that of its first token back.
        offered: the tokens a second that the model server sends to clients that read at once.
        between_us: the CPU time of what stands between, in microseconds a token.
        asker_us: the same of the asker.
        failed: how many answers failed; `reason`: why the first did.
    """

    streams: int
    answers: int
    tokens: int
    first_ms: Times | None
    tokens_per_s: float
    offered: float
    between_us: float | None
    asker_us: float | None
    failed: int
    reason: str


class Memory(BaseModel):
    """The memory of what stands between: without streams in MB, and in KB a stream, before and during the answer."""

    at_rest_mb: float
    streams: int
    waiting_kb: float
    streaming_kb: float


class Loss(BaseModel):
    """What became of the answers whose peer was killed in the middle and started again immediately.

    Args:
        whole: how many answers arrived whole: no token was lost or repeated.
        with_repeats: how many lack no token, but have some twice.
        lost: the tokens that an answer lacks, on average.
        repeated: the tokens that arrived twice, on average.
        errors: the errors that readers got, and how many got each.
        silent: how many readers got neither a token nor an error for `patience_s`.
        pause_s: the longest pause of an answer that lacks no token; None if there is none.
    """

    answers: int
    whole: int
    with_repeats: int
    lost: float
    repeated: float
    errors: dict[str, int]
    silent: int
    pause_s: float | None
    patience_s: float


class OfPeer(BaseModel):
    """A peer's part of the report. `failure`: why the measurement of this peer is not complete."""

    peer: str
    packages: list[str]
    memory: Memory | None = None
    levels: list[AtStreams] = []
    loss: Loss | None = None
    failure: str | None = None


class Comparison(BaseModel):
    """The report of a whole measurement."""

    measured_at: str
    machine: str
    versions: str
    peers: list[OfPeer]


def table(report: Comparison) -> str:
    """Return the report as Markdown, for benches/README.md."""
    pins = "; ".join(f"{of.peer}: {', '.join(of.packages)}" for of in report.peers if of.packages)
    lines = [f"{report.measured_at}, {report.machine}; {report.versions}.", "", *([f"{pins}.", ""] if pins else [])]
    streams = sorted({at.streams for of in report.peers for at in of.levels})
    for number in streams:
        lines.extend(_at(report, number))
    lines.extend(_memory(report))
    lines.extend(_losses(report))
    lines.extend(f"- {of.peer}: {of.failure}" for of in report.peers if of.failure)
    return "\n".join(lines)


def _at(report: Comparison, streams: int) -> Iterator[str]:
    levels = [(of.peer, at) for of in report.peers for at in of.levels if at.streams == streams]
    _, first = levels[0]
    yield f"Streams: {streams}. The model server offers {first.offered:.0f} tokens a second."
    yield ""
    yield "| peer | answers | first token, ms | tokens a second | CPU between | CPU of the asker | failed |"
    yield "|---|--:|--:|--:|--:|--:|---|"
    for peer, at in levels:
        times = f"{at.first_ms.p50:.1f} / {at.first_ms.p99:.1f}" if at.first_ms else ""
        cpu = ["" if used is None else f"{used:.0f}" for used in (at.between_us, at.asker_us)]
        failed = f"{at.failed}: {at.reason}".replace("|", "\\|") if at.failed else ""
        cells = (peer, f"{at.answers} x {at.tokens}", times, f"{at.tokens_per_s:.0f}", *cpu, failed)
        yield f"| {' | '.join(cells)} |"
    yield ""


def _memory(report: Comparison) -> Iterator[str]:
    rows = [(of.peer, of.memory) for of in report.peers if of.memory]
    if not rows:
        return
    yield "| peer | at rest, MB | streams | a waiting stream, KB | a streaming one, KB |"
    yield "|---|--:|--:|--:|--:|"
    for peer, memory in rows:
        a_stream = f"{memory.waiting_kb:.0f} | {memory.streaming_kb:.0f}"
        yield f"| {peer} | {memory.at_rest_mb:.0f} | {memory.streams} | {a_stream} |"
    yield ""


def _losses(report: Comparison) -> Iterator[str]:
    rows = [(of.peer, of.loss) for of in report.peers if of.loss]
    if not rows:
        return
    yield "| peer | answers | whole | tokens lost | repeated | longest pause, s | what readers got |"
    yield "|---|--:|--:|--:|--:|--:|---|"
    for peer, loss in rows:
        got = [f"{count} x {error}" for error, count in loss.errors.items()]
        if loss.silent:
            got.append(f"{loss.silent} x nothing for {loss.patience_s:g} s")
        if loss.whole:
            got.append(f"{loss.whole} x the whole answer")
        if loss.with_repeats:
            got.append(f"{loss.with_repeats} x the whole answer, and a part of it twice")
        pause = "" if loss.pause_s is None else f"{loss.pause_s:.1f}"
        tokens = f"{loss.lost:.0f} | {loss.repeated:.0f}"
        yield f"| {peer} | {loss.answers} | {loss.whole} | {tokens} | {pause} | {', '.join(got)} |"
    yield ""
