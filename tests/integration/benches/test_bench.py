"""`tokenlane bench`: measurements run to their end and say all they promise."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.processes import until_gone

from tokenlane.benches.commands import bench as commands
from tokenlane.benches.measure import cancel, recovery, sealing, traces
from tokenlane.benches.measure.cancel import CancelTimes
from tokenlane.benches.measure.figures import Overhead, table
from tokenlane.benches.measure.gateway import batch
from tokenlane.benches.measure.gateway.batch import BatchCost
from tokenlane.benches.measure.hooks import prompt_plugins
from tokenlane.benches.measure.hooks.prompt_plugins import PluginCost
from tokenlane.benches.measure.peers import report as peers
from tokenlane.benches.measure.peers.report import Comparison
from tokenlane.benches.measure.recovery import Recovery
from tokenlane.benches.measure.sealing import SealingCost
from tokenlane.benches.measure.soak import report as soak
from tokenlane.benches.measure.soak.report import Soak
from tokenlane.benches.measure.traces import TraceCost
from tokenlane.config import exit_codes as exits
from tokenlane.config.exit_codes import UserError

BENCH = (sys.executable, "-c", "from tokenlane.config.cli.root import main; main()", "bench")
COMMAND = (*BENCH, "overhead")
LEVELS = [1, 16, 64, 256]
SOCKETS_AND_FILES = ("connections", "open files")


async def test_overhead_measures_all_it_promises() -> None:
    """Every figure is there and of all samples, and `--check` fails exactly when a bar is not held."""
    process = await asyncio.create_subprocess_exec(*COMMAND, "--quick", "--json", "--check", stdout=PIPE, stderr=PIPE)
    out, error = await process.communicate()
    assert b"Traceback" not in error, error.decode()
    found = Overhead.model_validate_json(out)
    assert process.returncode == (0 if all(bar.held for bar in found.bars) else 1)
    assert [level.floor_ms is not None and level.floor_ms.p50 > 0 for level in found.levels] == [
        True,
        False,
        False,
        False,
    ]
    assert [level.streams for level in found.levels] == LEVELS
    for level in found.levels:
        assert level.direct_first_ms.samples == level.added_first_ms.samples == level.answers > 0
        assert level.direct_token_ms.samples == level.added_token_ms.samples == level.answers * (level.tokens - 1)
        assert all(cpu_us > 0 for cpu_us in level.cpu_us.model_dump().values())
    assert [bar.limit for bar in found.bars] == [7, 10, 2.4, 1.58, 1.95, 40, 1, 0.5]
    assert len({bar.name for bar in found.bars}) == len(found.bars)
    assert table(found).count("\n| ") == 1 + len(LEVELS)


async def test_batch_measures_first_tokens_with_and_without_a_batch() -> None:
    """Each line has its answer, both kinds of phases have samples, and `--check` fails when the bar is not held."""
    code, out = await bench("batch")
    report = BatchCost.model_validate_json(out)
    (bar,) = report.bars
    assert (code, bar.limit) == (0 if bar.held else 1, 1.1)
    assert bar.measured == report.busy_first_ms.p99 / report.quiet_first_ms.p99
    assert min(report.busy_first_ms.samples, report.quiet_first_ms.samples) > 1
    assert (report.lines, report.lines_per_s > 0) == (60, True)
    assert batch.table(report).count("\n| ") == 3


async def test_plugins_measures_the_call_and_all_around_it() -> None:
    """`--check` fails exactly when the bar is not held."""
    code, out = await bench("plugins")
    report = PluginCost.model_validate_json(out)
    (bar,) = report.bars
    assert (code, bar.limit, bar.measured) == (0 if bar.held else 1, 200, report.call_p50_us)
    assert 0 < report.call_p50_us < report.call_p99_us
    assert prompt_plugins.table(report).count("\n| ") == 3


async def test_sealing_measures_all_it_promises() -> None:
    """Each message has its costs, and `--check` fails exactly when a bar is not held."""
    command = (*BENCH, "sealing", "--quick", "--json", "--check")
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    out, error = await process.communicate()
    assert error == b""
    report = SealingCost.model_validate_json(out)
    assert process.returncode == (0 if all(bar.held for bar in report.bars) else 1)
    assert [bar.limit for bar in report.bars] == [5, 5]
    for cost in report.messages:
        assert cost.plain_bytes < cost.sealed_bytes < cost.plain_bytes + 128
        assert min(cost.seal_us, cost.open_us) > 0
    assert sealing.table(report).count("\n| ") == 1 + len(report.messages)


@pytest.mark.kills
async def test_recovery_measures_all_it_promises() -> None:
    """Every killed worker's answer goes on at its next token, and `--check` fails exactly when a bar is not held."""
    code, out = await bench("recovery")
    report = Recovery.model_validate_json(out)
    assert code == (0 if all(bar.held for bar in report.bars) else 1)
    (at,) = report.leases
    assert (at.lease_s, at.pause_ms.samples) == (1, 2)
    assert at.pause_ms.p50 > 0
    assert [bar.limit for bar in report.bars] == [2000]
    assert recovery.table(report).count("\n| ") == 1 + len(report.leases)


async def test_cancel_measures_all_it_promises() -> None:
    """Each state has its cancels, cancels at once leave nothing behind, and `--check` fails when a bar is not held."""
    code, out = await bench("cancel")
    report = CancelTimes.model_validate_json(out)
    assert code == (0 if all(bar.held for bar in report.bars) else 1)
    assert [at.state.split(",")[0] for at in report.states] == ["waiting", "dispatched", "running", "streaming"]
    assert all(at.free_ms.samples == 5 and at.free_ms.p50 > 0 for at in report.states)
    assert (report.at_once.cancels, report.at_once.running, report.at_once.left_behind) == (100, 64, [])
    assert [bar.limit for bar in report.bars] == [250, 250, 250, 250, 0]
    assert cancel.table(report).count("\n| ") == 1 + len(report.states)


async def test_traces_measure_each_kind_of_spans() -> None:
    """What a pair costs without spans, with the default and with all of them, and a bar for the default."""
    code, out = await bench("traces")
    report = TraceCost.model_validate_json(out)
    assert code == (0 if all(bar.held for bar in report.bars) else 1)
    assert [cost.spans for cost in report.pairs] == ["none", "default", "all"]
    assert all(cost.worker_us > 0 and cost.agent_us > 0 for cost in report.pairs)
    assert report.pairs[0].lost_percent == 0
    assert [bar.limit for bar in report.bars] == [6]
    assert traces.table(report).count("\n| ") == 1 + len(report.pairs)


async def test_peers_measure_each_peer_at_each_number_of_streams() -> None:
    """Those that need no environment of their own: no answer fails, and what stands between has its cost."""
    command = (*BENCH, "peers", "--quick", "--only", "costs", "--json", "--peers", "arq,bare,tokenlane")
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    out, error = await process.communicate()
    assert b"Traceback" not in error, error.decode()
    report = Comparison.model_validate_json(out)
    assert [(part.peer, part.failure) for part in report.peers] == [("bare", None), ("tokenlane", None), ("arq", None)]
    for part in report.peers:
        assert [(at.streams, at.failed) for at in part.levels] == [(1, 0), (16, 0)]
        assert all(at.first_ms and at.first_ms.samples == at.answers for at in part.levels)
        assert (part.memory is None) == (part.peer == "bare")
        assert part.memory is None or part.memory.at_rest_mb > 10
    assert peers.table(report).count("\n| ") == 2 * (1 + 3) + 1 + 2


@pytest.mark.kills
async def test_a_worker_that_is_killed_and_started_again_loses_no_token() -> None:
    """Its answers arrive whole in the comparison, after a pause of a lease."""
    process = await asyncio.create_subprocess_exec(
        *(*BENCH, "peers", "--quick", "--only", "kills", "--json", "--peers", "tokenlane"), stdout=PIPE, stderr=PIPE
    )
    out, error = await process.communicate()
    assert b"Traceback" not in error, error.decode()
    (part,) = Comparison.model_validate_json(out).peers
    assert part.loss is not None
    assert (part.loss.whole, part.loss.lost, part.loss.repeated) == (part.loss.answers, 0, 0)


@pytest.mark.kills
async def test_a_soak_measures_each_figure_in_each_round(tmp_path: Path) -> None:
    """Requests are answered in spite of the faults, and `--check` fails exactly when a figure certainly grows."""
    code, out = await bench("soak", "--minutes", "0.05", "--svg", str(tmp_path / "soak.svg"))
    report = Soak.model_validate_json(out)
    assert code == (0 if all(bar.held for bar in report.bars) else 1)
    names = [[figure.name for figure in group] for _, group in groupby(report.figures, lambda figure: figure.process)]
    of_python = ["memory (MB)", "objects (thousands)", "tasks", *SOCKETS_AND_FILES]
    of_redis = ["memory (MB)", "memory in use (MB)", "keys that do not expire", *SOCKETS_AND_FILES]
    assert names == [of_python, of_python, of_redis]
    assert all(len(figure.rounds) == 3 and min(figure.rounds) > 0 for figure in report.figures)
    assert (report.warm_up, report.bars) == (0, [])  # nothing is certain without a warm-up
    assert report.ended["answered"] > report.ended["cancelled"] > 0
    assert soak.table(report).count("\n| ") == 1 + len(report.figures)
    plot = ElementTree.parse(tmp_path / "soak.svg").getroot()
    assert len(plot.findall(".//{*}polyline")) == len(report.figures)


def test_a_soak_that_cannot_write_its_plot_does_not_start(tmp_path: Path) -> None:
    """The file is opened before the measurement."""
    with pytest.raises(UserError, match=r"soak\.svg"):
        commands.soak(svg=tmp_path / "none" / "soak.svg")


async def bench(command: str, *options: str) -> tuple[int | None, bytes]:
    """The exit code and the JSON of a measurement with bars, which is quick without other options."""
    process = await asyncio.create_subprocess_exec(
        *(*BENCH, command, *(options or ("--quick",)), "--json", "--check"), stdout=PIPE, stderr=PIPE
    )
    out, error = await process.communicate()
    assert b"Traceback" not in error, error.decode()
    return process.returncode, out


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.kills)])
async def test_a_measurement_is_broken_off(stop: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C, and whatever else ends it, ends all it started, without a traceback, and leaves no file behind."""
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "--quick"),
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(30):
            assert await process.stderr.readline()
            if stop == signal.SIGINT:
                os.killpg(process.pid, stop)  # as a terminal does
            else:
                process.send_signal(stop)
            out, error = await process.communicate()  # whose ends all have that it started
            assert (out, error.decode()) == (b"", "")
            assert process.returncode == (exits.CANCELLED if stop == signal.SIGINT else -stop)
            while list(tmp_path.iterdir()):
                await asyncio.sleep(0.05)
    finally:
        if process.returncode is None:
            process.kill()
        await until_gone(process.pid)
