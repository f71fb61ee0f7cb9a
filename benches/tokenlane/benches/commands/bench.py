"""`tokenlane bench` has a command for each measurement."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer
from pydantic import BaseModel

from tokenlane.benches.measure import cancel as cancel_measurement
from tokenlane.benches.measure import overhead as measurement
from tokenlane.benches.measure import recovery as recovery_measurement
from tokenlane.benches.measure import sealing as sealing_measurement
from tokenlane.benches.measure import traces as traces_measurement
from tokenlane.benches.measure.figures import Bar, table
from tokenlane.benches.measure.gateway import batch as batch_measurement
from tokenlane.benches.measure.gateway import measurement as gateway_measurement
from tokenlane.benches.measure.gateway import report as gateway_report
from tokenlane.benches.measure.hooks import prompt_plugins
from tokenlane.benches.measure.llm import measurement as llm_measurement
from tokenlane.benches.measure.llm.find import builtin_subject, find_subjects
from tokenlane.benches.measure.llm.table import table as llm_table
from tokenlane.benches.measure.peers import measurement as peers_measurement
from tokenlane.benches.measure.peers import report as peers_report
from tokenlane.benches.measure.peers.catalog import PEERS
from tokenlane.benches.measure.plots import llm as llm_plot
from tokenlane.benches.measure.plots import soak as soak_plot
from tokenlane.benches.measure.soak import measurement as soak_measurement
from tokenlane.benches.measure.soak import report as soak_report
from tokenlane.benches.measure.swap import measurement as swap_measurement
from tokenlane.config.cli.output import note
from tokenlane.config.cli.plain_text import escaped
from tokenlane.config.cli.time_spans import time_span
from tokenlane.config.exit_codes import FAILED, UserError
from tokenlane.config.settings.load import configured_model_servers, names_provider, pool_settings
from tokenlane.config.settings.values import TOY_PROVIDER, LaneSettings
from tokenlane.worker.builtin.server import needs_builtin_server
from tokenlane.worker.discovery.targets import Target, named_targets, search_targets, usual_targets

_Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print all figures as one JSON object.")]
_Check: TypeAlias = Annotated[bool, typer.Option("--check", help="Exit with 1 if a figure is above its bar.")]
_Quick: TypeAlias = Annotated[
    bool, typer.Option("--quick", help="Measure for a few seconds only, to check that the benchmark works.")
]

_NAME_ONE = (
    "Start one, name it with --endpoint URL or in llm.toml, or measure the built-in toy model with --builtin. "
    "`tokenlane probe` shows how to get one."
)

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
def gateway(as_json: _Json = False, check: _Check = False, quick: _Quick = False) -> None:
    """Measure the time and CPU that the gateway adds to an agent's own client."""
    plan = gateway_measurement.QUICK if quick else gateway_measurement.FULL
    report = asyncio.run(gateway_measurement.measure(plan, partial(typer.echo, err=True)))
    _print(report, gateway_report.table(report), report.bars, as_json=as_json, check=check)


@bench.command()
def batch(as_json: _Json = False, check: _Check = False, quick: _Quick = False) -> None:
    """Measure how much later first tokens come while the gateway runs a batch."""
    plan = batch_measurement.QUICK if quick else batch_measurement.FULL
    report = asyncio.run(batch_measurement.measure(plan, partial(typer.echo, err=True)))
    _print(report, batch_measurement.table(report), report.bars, as_json=as_json, check=check)


@bench.command()
def plugins(as_json: _Json = False, check: _Check = False, quick: _Quick = False) -> None:
    """Measure how long a worker takes to render a prompt with a plugin."""
    report = asyncio.run(prompt_plugins.measure(200 if quick else 5000))
    _print(report, prompt_plugins.table(report), report.bars, as_json=as_json, check=check)


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
def peers(
    names: Annotated[str, typer.Option("--peers", help="Which peers, by commas.")] = ",".join(PEERS),
    streams: Annotated[str, typer.Option(help="Which numbers of streams, by commas.")] = "1,16,64,256,1000",
    only: Annotated[Literal["costs", "kills"] | None, typer.Option(help="Measure a part only.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Make the peers' virtual environments again.")] = False,
    as_json: _Json = False,
    quick: _Quick = False,
) -> None:
    """Compare tokenlane with other queues, proxies and routers, which get virtual environments in the cache."""
    plan = peers_measurement.QUICK if quick else peers_measurement.FULL
    chosen = _chosen("--peers", names, list(PEERS))
    if not quick:
        numbers = _chosen("--streams", streams, [str(level.streams) for level in plan.levels])
        plan = replace(plan, levels=tuple(level for level in plan.levels if str(level.streams) in numbers))
    if only == "kills":
        plan = replace(plan, levels=())
    progress = partial(typer.echo, err=True)
    report = asyncio.run(peers_measurement.measure(plan, chosen, kills=only != "costs", fresh=fresh, progress=progress))
    _print(report, peers_report.table(report), [], as_json=as_json, check=False)


def _chosen(option: str, text: str, known: Sequence[str]) -> list[str]:
    """Return those of the known names that a list separated by commas has, in the known order."""
    given = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in given if name not in known]:
        raise UserError(f"{option}: {unknown[0]!r} is unknown. Choose from {', '.join(known)}.")
    return [name for name in known if name in given]


@bench.command()
def swap(as_json: _Json = False, check: _Check = False, quick: _Quick = False) -> None:
    """Measure the first token after a model was unloaded and loaded again, with its KV cache kept."""
    report = asyncio.run(swap_measurement.measure(1 if quick else 3, partial(typer.echo, err=True), quick=quick))
    _print(report, swap_measurement.table(report), report.bars, as_json=as_json, check=check)


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


@bench.command()
def llm(
    endpoint: Annotated[
        list[str] | None,
        typer.Option(help="Measure only the model server at this URL; may be repeated. Default: all that are found."),
    ] = None,
    builtin: Annotated[bool, typer.Option("--builtin", help="Start and measure the built-in toy model too.")] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Measure this model of each server; may be repeated. Default: as configured, or its first."),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, max=1000, help="How many answers to measure of each model.")] = 10,
    warm_up: Annotated[int, typer.Option(min=0, max=1000, help="How many answers each model gives before.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Draws the prompts, which are the same for all models.")] = 0,
    limit: Annotated[
        int,
        typer.Option(
            parser=time_span, metavar="TIME", show_default="5m", help="Give up a model whose answer takes longer."
        ),
    ] = 300_000,
    svg: Annotated[Path | None, typer.Option(help="Plot the figures of all models into this file.")] = None,
    as_json: _Json = False,
) -> None:
    """Measure model servers: time to the first token and to 256 tokens, tokens a second, and memory."""
    progress = partial(note, err=True)
    plan = llm_measurement.LlmPlan(runs, warm_up, seed, limit / 1000)
    with _writing(svg) as write:
        subjects = asyncio.run(find_subjects(_targets(endpoint or ()), model or (), progress))
        subjects += map(builtin_subject, _builtin_lanes(endpoint or (), asked=builtin))
        if not subjects:
            raise UserError(f"No model server was found at its usual port. {_NAME_ONE}")
        report = asyncio.run(llm_measurement.measure(subjects, plan, progress))
        write(llm_plot.svg(report))
    _print(report, llm_table(report), (), as_json=as_json, check=False)
    if not any(measured.runs for measured in report.measured):
        raise typer.Exit(FAILED)


def _targets(endpoints: Sequence[str]) -> list[Target]:
    """The model servers at these URLs, with their settings if there are any; without URLs, those in the settings and on
    the usual ports of this host."""
    targets, usual = search_targets(configured_model_servers()), usual_targets()
    configured = {target.lane.endpoint: target for target in targets if target not in usual}
    return [configured.get(target.lane.endpoint) or target for target in named_targets(endpoints)] or targets


def _builtin_lanes(endpoints: Sequence[str], *, asked: bool) -> list[LaneSettings]:
    """The lanes with the built-in model: those in the settings unless there are URLs, else one if it is asked for."""
    configured = [] if endpoints or not names_provider() else filter(needs_builtin_server, pool_settings())
    return [*configured] or ([LaneSettings(TOY_PROVIDER, TOY_PROVIDER)] if asked else [])


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
    sys.stdout.write((escaped(report.model_dump_json(indent=2)) if as_json else text) + "\n")
    if check and not all(bar.held for bar in bars):
        raise typer.Exit(FAILED)
