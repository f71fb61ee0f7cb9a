"""`tokenlane bench` has a command for each measurement."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from pydantic import BaseModel

from tokenlane.benches.measure import cancel as cancel_measurement
from tokenlane.benches.measure import overhead as measurement
from tokenlane.benches.measure import recovery as recovery_measurement
from tokenlane.benches.measure import sealing as sealing_measurement
from tokenlane.benches.measure import traces as traces_measurement
from tokenlane.benches.measure.figures import Bar, table
from tokenlane.benches.measure.soak import measurement as soak_measurement
from tokenlane.benches.measure.soak import plot as soak_plot
from tokenlane.benches.measure.soak import report as soak_report
from tokenlane.config.exit_codes import FAILED, UserError

_Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print all figures as one JSON object.")]
_Check: TypeAlias = Annotated[bool, typer.Option("--check", help="Exit with 1 if a figure is above its bar.")]
_Quick: TypeAlias = Annotated[
    bool, typer.Option("--quick", help="Measure for a few seconds only, to check that the benchmark works.")
]

bench = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@bench.callback()
def _bench() -> None:
    """Measure tokenlane on this machine. Stop other programs first, and compare figures only within one run."""


@bench.command()
def overhead(
    as_json: _Json = False,
    check: _Check = False,
    quick: _Quick = False,
) -> None:
    """Measure the time and CPU that tokenlane adds, compared with asking a model server directly."""
    plan = measurement.QUICK if quick else measurement.FULL
    report = asyncio.run(measurement.measure(plan, partial(typer.echo, err=True)))
    _print(report, table(report), report.bars, as_json=as_json, check=check)


@bench.command()
def sealing(
    as_json: _Json = False,
    check: _Check = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure for less than a second, to check that the benchmark works.")
    ] = False,
) -> None:
    """Measure the CPU time that a pool key adds to each published message."""
    report = sealing_measurement.measure(10 if quick else 300)
    _print(report, sealing_measurement.table(report), report.bars, as_json=as_json, check=check)


@bench.command()
def recovery(as_json: _Json = False, check: _Check = False, quick: _Quick = False) -> None:
    """Measure how long an answer pauses when the worker that streams it is killed."""
    plan = recovery_measurement.QUICK if quick else recovery_measurement.FULL
    report = asyncio.run(recovery_measurement.measure(plan, partial(typer.echo, err=True)))
    _print(report, recovery_measurement.table(report), report.bars, as_json=as_json, check=check)


@bench.command()
def cancel(as_json: _Json = False, check: _Check = False, quick: _Quick = False) -> None:
    """Measure how soon a cancel frees the slot, and what many cancels at once leave behind."""
    plan = cancel_measurement.QUICK if quick else cancel_measurement.FULL
    report = asyncio.run(cancel_measurement.measure(plan, partial(typer.echo, err=True)))
    _print(report, cancel_measurement.table(report), report.bars, as_json=as_json, check=check)


@bench.command()
def traces(as_json: _Json = False, check: _Check = False, quick: _Quick = False) -> None:
    """Measure the throughput that traces cost."""
    plan = traces_measurement.QUICK if quick else traces_measurement.FULL
    report = asyncio.run(traces_measurement.measure(plan, partial(typer.echo, err=True)))
    _print(report, traces_measurement.table(report), report.bars, as_json=as_json, check=check)


@bench.command()
def soak(
    minutes: Annotated[float, typer.Option(min=0.05, help="How long to measure: 10 at least to learn much.")] = 30,
    svg: Annotated[Path | None, typer.Option(help="Plot all figures over time into this file.")] = None,
    as_json: _Json = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a figure certainly grows.")] = False,
) -> None:
    """Measure whether memory, tasks, connections, files and keys grow at steady load with faults."""
    with _writing(svg) as write:
        report = asyncio.run(soak_measurement.measure(minutes, partial(typer.echo, err=True)))
        write(soak_plot.svg(report))
    _print(report, soak_report.table(report), report.bars, as_json=as_json, check=check)


@contextmanager
def _writing(path: Path | None) -> Iterator[Callable[[str], object]]:
    """Yield a function that writes a text to the file, which is opened first, since a measurement takes long."""
    if path is None:
        yield lambda text: None
        return
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--svg: {path} cannot be written: {error.strerror or error}. Name another file.") from error
    with file:
        yield file.write


def _print(report: BaseModel, text: str, bars: Sequence[Bar], *, as_json: bool, check: bool) -> None:
    sys.stdout.write((report.model_dump_json(indent=2) if as_json else text) + "\n")
    if check and not all(bar.held for bar in bars):
        raise typer.Exit(FAILED)
