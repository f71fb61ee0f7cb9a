"""The comparison with peers: what counts as lost and repeated, and what becomes of a peer that fails."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest

from tokenlane.benches.commands import bench
from tokenlane.benches.measure.child_process import ChildProcess
from tokenlane.benches.measure.peers import losses, measurement, report
from tokenlane.benches.measure.peers.between import Intermediary
from tokenlane.benches.measure.peers.catalog import PEERS, Peer
from tokenlane.benches.measure.peers.programs.rounds import Arrivals, Watched, load, watch
from tokenlane.benches.simulator import Simulator
from tokenlane.config.exit_codes import UserError

WHOLE = "".join(f"w{number} " for number in range(losses.TOKENS))


def watched(text: str, error: str | None = None, *, silent: bool = False) -> Watched:
    return Watched(text=text, pause_s=1.5, error=error, silent=silent)


def test_losses_count_each_token() -> None:
    """An answer is whole if each token arrived once; the others lack tokens, or have some twice."""
    cut = WHOLE[: WHOLE.index("w50 ")]
    found = losses.of(
        [watched(WHOLE), watched(cut, "ReadError: cut"), watched(cut, silent=True), watched(cut + WHOLE)], 90
    )
    assert (found.answers, found.whole, found.with_repeats, found.silent) == (4, 1, 1, 1)
    assert found.errors == {"ReadError": 1}
    assert found.lost == 2 * (losses.TOKENS - 50) / 4
    assert found.repeated == 50 / 4
    assert found.pause_s == 1.5


async def test_a_watched_answer_ends_whole_with_an_error_or_in_silence() -> None:
    """A reader that gets nothing for its patience gives up, and keeps what had arrived."""

    async def ask(tokens: int, arrivals: Arrivals) -> None:
        arrivals.append((0, "w0 "))
        if next(ways) == "error":
            raise ConnectionResetError("cut")
        await asyncio.Event().wait()

    ways = iter(["error", "silence"])
    broken, silent = await watch(ask, streams=2, tokens=2, patience_s=0.01)
    assert broken == {"text": "w0 ", "pause_s": 0, "error": "ConnectionResetError: cut", "silent": False}
    assert silent == {"text": "w0 ", "pause_s": 0, "error": None, "silent": True}


async def hold() -> None:
    """Wait for ever, and need a moment to end."""
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)


async def fail() -> NoReturn:
    raise UserError("cut")


async def test_no_task_outlives_a_measurement_that_fails() -> None:
    """Neither the asker's task when the peer cannot be killed or its memory is not known, nor a stream's."""
    asker = cast(ChildProcess, SimpleNamespace(ask=lambda *_, **__: hold()))
    log = [SimpleNamespace(sent=losses.TOKENS)] * losses.ANSWERS
    server = cast(Simulator, SimpleNamespace(log=Growing(log)))
    with pytest.raises(UserError):
        await losses.lose(server, asker, cast(Intermediary, SimpleNamespace(kill=fail)), patience_s=1)
    assert asyncio.all_tasks() == {asyncio.current_task()}

    memory = iter([resting(), fail()])
    running = measurement._Running(asker, cast(Intermediary, SimpleNamespace(memory_mb=lambda: next(memory))))
    metronome = cast(ChildProcess, SimpleNamespace(ask=lambda *_, **__: asyncio.sleep(0)))
    with pytest.raises(UserError):
        await measurement._memory(running, metronome, streams=1, for_s=0.01)
    assert asyncio.all_tasks() == {asyncio.current_task()}

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await watch(lambda tokens, arrivals: hold(), streams=2, tokens=2, patience_s=60)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def resting() -> float:
    return 1.0


class Growing(list[SimpleNamespace]):
    """A log that has no answers before the first look."""

    def __len__(self) -> int:
        return 0


async def test_a_failed_answer_is_counted_and_ends_no_round() -> None:
    """An answer with an error or too few tokens has no times."""

    async def ask(tokens: int, arrivals: Arrivals) -> None:
        arrivals.extend([(300, "100 200")] * next(counts))

    counts = iter([2, 1])
    times = await load(ask, streams=1, answers=2, tokens=2, spread_s=0)
    assert (len(times["first_ms"]), len(times["delta_ms"]), len(times["failed"])) == (1, 1, 1)


async def test_a_peer_that_cannot_be_installed_has_the_reason_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are measured in spite of it."""
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'ERROR: No matching distribution found for absent-1.0.whl'; exit 1\n")
    broken.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(PEERS, "absent", Peer("absent", PEERS["bare"].asker, packages=("./absent-1.0.whl",)))
    found = await measurement.measure(measurement.QUICK, ["absent"], kills=False, fresh=False)
    (part,) = found.peers
    assert part.failure is not None
    assert "absent-1.0.whl" in part.failure
    assert f"- absent: {part.failure}" in report.table(found).splitlines()


def test_an_unknown_peer_is_refused() -> None:
    """The error names the option, the name and the known names."""
    with pytest.raises(UserError, match=r"(?s)--peers.*sidekiq.*tokenlane"):
        bench.peers(names="sidekiq")
