"""`tokenlane bench` has a command for each measurement."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Annotated

import typer

from tokenlane.benches.measure import overhead as measurement
from tokenlane.benches.measure import sealing as sealing_measurement
from tokenlane.benches.measure.figures import table
from tokenlane.config.exit_codes import FAILED

bench = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@bench.callback()
def _bench() -> None:
    """Measure tokenlane on this machine. Stop other programs first, and compare figures only within one run."""


@bench.command()
def overhead(
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as one JSON object.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a figure is above its bar.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure for a few seconds only, to check that the benchmark works.")
    ] = False,
) -> None:
    """Measure the time and CPU that tokenlane adds, compared with asking a model server directly."""
    plan = measurement.QUICK if quick else measurement.FULL
    report = asyncio.run(measurement.measure(plan, partial(typer.echo, err=True)))
    sys.stdout.write((report.model_dump_json(indent=2) if as_json else table(report)) + "\n")
    if check and not all(bar.held for bar in report.bars):
        raise typer.Exit(FAILED)


@bench.command()
def sealing(
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as one JSON object.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a figure is above its bar.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure for less than a second, to check that the benchmark works.")
    ] = False,
) -> None:
    """Measure the CPU time that a pool key adds to each published message."""
    report = sealing_measurement.measure(10 if quick else 300)
    text = report.model_dump_json(indent=2) if as_json else sealing_measurement.table(report)
    sys.stdout.write(text + "\n")
    if check and not all(bar.held for bar in report.bars):
        raise typer.Exit(FAILED)
