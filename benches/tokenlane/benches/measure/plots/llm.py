"""Plots model servers as SVG: a panel for each figure, with the p50 of each server as a bar and its range as a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from tokenlane.benches.measure.llm.report import LlmReport, Measured, Spread
from tokenlane.config.cli.plain_text import one_line

from .page import page

_WIDTH, _BAR, _STEP, _LEFT, _TOP, _HEAD, _RIGHT = 560.0, 16.0, 26.0, 260.0, 50.0, 28.0, 110.0


@dataclass(frozen=True)
class _Bar:
    """A bar of a panel: its figure, and the range of the figure in all runs."""

    name: str
    value: float
    least: float
    most: float
    label: str


def svg(report: LlmReport) -> str:
    """Return the plot of all models that answered, as the text of an SVG file for light and dark backgrounds.

    A model whose answers have fewer tokens has no bar for the time to all of them.
    """
    answered = [measured for measured in report.measured if measured.runs]
    complete = [each for each in answered if all(run.tokens == report.tokens for run in each.runs)]
    titles = {
        "time to the first token, ms": [_of(each, each.first_token_ms, 1, 0) for each in answered],
        f"time to {report.tokens} tokens, s": [_of(each, each.total_ms, 1000, 2) for each in complete],
        "tokens a second after the first": [_of(each, each.tokens_per_s, 1, 1) for each in answered],
        "memory of the server, MB": [_held(each, each.memory_mb) for each in answered],
        "memory on GPUs, MB": [_held(each, each.gpu_memory_mb) for each in answered],
    }
    panels = {title: [bar for bar in bars if bar is not None] for title, bars in titles.items()}
    parts: list[str] = []
    top = _TOP
    for title, bars in panels.items():
        if bars:
            parts.append(f'<g transform="translate({_LEFT:g} {top:g})">{"".join(_panel(title, bars))}</g>')
            top += _HEAD + len(bars) * _STEP + _STEP / 2
    title = f"p50 of {report.runs} runs, one request at a time; the line is the range. Measured at {report.measured_at}"
    return page(title, _LEFT + _WIDTH + _RIGHT, top, parts)


def _of(measured: Measured, spread: Spread | None, unit: float, digits: int) -> _Bar | None:
    if spread is None:
        return None
    value, least, most = (figure / unit for figure in (spread.p50, spread.least, spread.most))
    return _Bar(_name(measured), value, least, most, f"{value:.{digits}f}")


def _held(measured: Measured, memory_mb: float | None) -> _Bar | None:
    return None if memory_mb is None else _Bar(_name(measured), memory_mb, memory_mb, memory_mb, f"{memory_mb:.0f}")


def _name(measured: Measured) -> str:
    return one_line(f"{measured.provider}: {measured.model}")


def _panel(title: str, bars: Sequence[_Bar]) -> Iterator[str]:
    """The parts of a panel, whose bars begin at x = 0."""
    longest = max(bar.most for bar in bars) or 1
    yield f'<text x="0" y="12">{escape(title)}</text>'
    for number, bar in enumerate(bars):
        top = _HEAD + number * _STEP
        middle = top + _BAR / 2
        width, least, most = (figure / longest * _WIDTH for figure in (bar.value, bar.least, bar.most))
        yield f'<text class="end" x="-8" y="{middle + 4:g}">{escape(_short(bar.name))}</text>'
        yield f'<rect class="bar" y="{top:g}" width="{width:.1f}" height="{_BAR:g}"/>'
        if most > least:
            ends = " ".join(f"M{end:.1f},{top + 3:g} v10" for end in (least, most))
            yield f'<path class="range" d="M{least:.1f},{middle:g} H{most:.1f} {ends}"/>'
        yield f'<text class="small" x="{max(width, most) + 8:.1f}" y="{middle + 4:g}">{bar.label}</text>'


def _short(name: str) -> str:
    return name if len(name) <= 34 else f"{name[:33]}…"
