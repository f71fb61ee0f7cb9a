"""The processes of a measurement: a process that dies ends the measurement with an error that names it."""

from __future__ import annotations

import asyncio

import pytest

from tokenlane.benches.measure import floor
from tokenlane.benches.measure.child_process import child_process
from tokenlane.config.exit_codes import UserError


async def test_a_process_that_dies_at_its_start_ends_the_measurement() -> None:
    """The error names the process, even if the measurement is waiting for something else."""
    with pytest.raises(UserError, match="floor:echo"):
        async with asyncio.timeout(30), child_process(floor.echo, redis="unix:///no/such/redis.sock"):
            await asyncio.Event().wait()
