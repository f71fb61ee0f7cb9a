"""The commands of docs/runbook.md work, on a pool with the role and the lane that they name."""

from __future__ import annotations

import shlex

from tests.documents import commands_of
from tests.integration.lanes import lane_of
from tests.repository import ROOT
from tests.verbs import run_in_thread

from tokenlane.benches.simulator import Simulator
from tokenlane.config import exit_codes as exits
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import Client


async def test_every_command_works(client: Client, redis_url: str) -> None:
    """Each command of the page's console blocks, in their order, succeeds and prints something."""
    async with Simulator(api="vllm") as simulator:
        async with lane_of(redis_url, LaneSettings("gpu0", "vllm", simulator.url)):
            await client.complete("hi", role="planner")
            for command in commands_of((ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")):
                verb, *arguments = shlex.split(command)
                if verb == "docker":  # test_compose.py carries it out
                    continue
                assert verb == "tokenlane"
                ended = await run_in_thread(*arguments, TOKENLANE_REDIS_URL=redis_url)
                assert ended.code == exits.OK, f"{command}\n{ended.out}{ended.error}"
                assert (ended.out + ended.error).strip(), command
