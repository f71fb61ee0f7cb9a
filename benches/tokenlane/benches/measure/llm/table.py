"""The report of `bench llm` as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from tokenlane.config.cli.plain_text import one_line
from tokenlane.config.cli.sentences import counted

from .report import CERTAIN_P99, LlmReport, Measured, Spread

_BUSY = 0.1
"""From this part of all cores on, other programs count as a disturbance."""
_AT_ONCE = 0.9
"""An answer whose first token takes this part of the whole time or more was not streamed."""


def table(report: LlmReport) -> str:
    """Return the report as Markdown."""
    headings = (
        *("provider", "model", "prompt", "tokens", "first token, ms", f"{report.tokens} tokens, s"),
        *("tokens a second", "memory, MB", *(["GPU memory, MB"] if report.gpus else []), "remarks"),
    )
    aligned = ("---" if heading in ("provider", "model", "remarks") else "--:" for heading in headings)
    gpus = f"; {', '.join(report.gpus)}" if report.gpus else ""
    lines = [
        f"{report.measured_at}, {report.machine}{gpus}; {report.versions}.",
        "",
        f"{counted(report.runs, 'run', 'runs')} after {counted(report.warm_up, 'run', 'runs')} of warm-up, one request "
        f"at a time, asked directly and not through a pool; prompts from seed {report.seed}; "
        f"at most {report.limit_s:g} s for an answer. Times are p50 / p99 (least to most), speeds p50 (least to most).",
        "",
        f"| {' | '.join(headings)} |",
        f"|{'|'.join(aligned)}|",
        *(f"| {' | '.join(map(_plain, _cells(measured, report)))} |" for measured in report.measured),
    ]
    notes = list(_notes(report))
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _cells(measured: Measured, report: LlmReport) -> Iterator[str]:
    yield f"{measured.provider or '-'} {measured.version}".rstrip()
    yield f"{measured.model or '-'} {measured.quantisation}".rstrip()
    yield _between([run.prompt_tokens for run in measured.runs])
    yield _between([run.tokens for run in measured.runs])
    yield _spread(measured.first_token_ms, 1, 0)
    yield _spread(measured.total_ms, 1000, 2)
    yield _spread(measured.tokens_per_s, 1, 1, percentiles=("p50",))
    yield "-" if measured.memory_mb is None else f"{measured.memory_mb:.0f}"
    if report.gpus:
        yield "-" if measured.gpu_memory_mb is None else f"{measured.gpu_memory_mb:.0f}"
    yield "; ".join(_remarks(measured, report))


def _plain(cell: str) -> str:
    """A cell without what would end it or steer a terminal: names and reasons come from servers."""
    return one_line(cell).replace("|", "\\|")


def _between(counts: list[int]) -> str:
    if not counts:
        return "-"
    least, most = min(counts), max(counts)
    return f"{least}" if least == most else f"{least} to {most}"


def _spread(
    spread: Spread | None, unit: float, digits: int, percentiles: Sequence[Literal["p50", "p99"]] = ("p50", "p99")
) -> str:
    if spread is None:
        return "-"
    shown = {name: f"{value / unit:.{digits}f}" for name, value in spread.model_dump().items()}
    return f"{' / '.join(shown[name] for name in percentiles)} ({shown['least']} to {shown['most']})"


def _remarks(measured: Measured, report: LlmReport) -> Iterator[str]:
    if measured.problem:
        where = f" at {measured.endpoint}" if measured.endpoint else ""
        after = f" after {counted(len(measured.runs), 'run', 'runs')}" if measured.runs else ""
        yield f"FAILED{where}{after}: {measured.problem}"
    if measured.runs and all(run.first_token_ms > _AT_ONCE * run.total_ms for run in measured.runs):
        yield "answers come all at once, not token by token"
    if any(run.tokens != report.tokens for run in measured.runs):
        yield f"not all answers have {report.tokens} tokens: the times are those of what came"
    if not all(run.is_counted for run in measured.runs):
        yield "the server counts no tokens: pieces were counted instead"
    if (measured.others_cores or 0) > _BUSY * report.cores:
        yield f"BUSY: other programs used {measured.others_cores:.1f} cores; without them the server may be faster"


def _notes(report: LlmReport) -> Iterator[str]:
    answered = [measured for measured in report.measured if measured.runs]
    if answered and report.runs < CERTAIN_P99:
        yield f"- p99 of fewer than {CERTAIN_P99} runs is the worst of them: it says little about rare delays."
    if report.load_average is not None:
        busy = report.load_average > _BUSY * report.cores
        judged = "the machine was BUSY" if busy else "the machine was quiet"
        yield f"- Load average in the minute before: {report.load_average:.2f} on {report.cores} cores; {judged}."
    if any(measured.memory_mb is None and not measured.problem for measured in answered):
        yield "- Memory is known only of processes that this user can see on this host, outside of containers."
