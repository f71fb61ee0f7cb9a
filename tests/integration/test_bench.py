"""`tokenlane bench`: measurements run to their end and say all they promise."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE

from tokenlane.benches.overhead import Overhead, table

COMMAND = (sys.executable, "-c", "from tokenlane.config.cli import main; main()", "bench", "overhead")
LEVELS = [1, 64]


async def test_overhead_measures_all_it_promises() -> None:
    """Every figure is there and of all samples, and `--check` fails exactly when a bar is not held."""
    process = await asyncio.create_subprocess_exec(*COMMAND, "--quick", "--json", "--check", stdout=PIPE, stderr=PIPE)
    out, error = await process.communicate()
    assert b"Traceback" not in error, error.decode()
    found = Overhead.model_validate_json(out)
    assert process.returncode == (0 if all(bar.held for bar in found.bars) else 1)
    assert found.floor_ms.p50 > 0
    assert [level.streams for level in found.levels] == LEVELS
    for level in found.levels:
        assert level.direct_first_ms.samples == level.added_first_ms.samples == level.answers > 0
        assert level.direct_token_ms.samples == level.added_token_ms.samples == level.answers * (level.tokens - 1)
        assert all(cpu_us > 0 for cpu_us in level.cpu_us.model_dump().values())
    assert [bar.limit for bar in found.bars] == [5, 10, 1.5]
    assert all(bar.held == (bar.measured <= bar.limit) for bar in found.bars)
    assert table(found).count("\n| ") == 1 + len(LEVELS)
