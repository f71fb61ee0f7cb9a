"""The example of the documentation, as people run it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.batches import batch_gateway
from tests.repository import ROOT

from tokenlane.producer.testing import MockPool


async def test_the_example_prints_each_answer(tmp_path: Path) -> None:
    program = ROOT / "docs" / "examples" / "openai_batch.py"
    async with MockPool(lambda _: "42 apples") as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        environment = {"OPENAI_BASE_URL": str(sdk.base_url), "OPENAI_API_KEY": "any", "HOME": str(tmp_path)}
        arguments = (sys.executable, str(program), "default")
        process = await asyncio.create_subprocess_exec(
            *arguments, stdout=asyncio.subprocess.PIPE, env=os.environ | environment
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    state, *lines = output.decode().splitlines()
    assert (state, sum("42 apples" in line for line in lines)) == ("completed", 3)
