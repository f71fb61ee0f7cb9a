"""Records `dashboard-light.png` and `dashboard-phone.png`: coders ask for more than their lane can serve.

    .venv/bin/python -m docs.pictures.record_dashboard

Needs the extra `dev`, and Chromium. It takes two minutes.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from tests.chromium import chromium
from tests.integration.farm import Server, farm
from tests.integration.lanes import lane_of

from tokenlane.benches.simulator import Simulator
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import Client, LlmError
from tokenlane.routing.support.tasks import background

PICTURES = Path(__file__).parent
ROLES = {"planner": (2.0, "phi3:mini"), "coder": (0.6, "qwen3:8b"), "reviewer": (4.0, "phi3:mini")}
"""How often, in seconds, the agents of each role ask on average, and for which model."""
MODELS = {"gpu0": ["qwen3:8b"], "gpu1": ["phi3:mini"]}


async def main() -> None:
    """Start a pool, wait until its charts show something, and take the pictures."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = await stack.enter_async_context(Server(directory))
        simulators = [
            await stack.enter_async_context(Simulator(api="ollama", models=models, itl_ms=20, tokens=150))
            for models in MODELS.values()
        ]
        for name, simulator in zip(MODELS, simulators, strict=True):
            settings = LaneSettings(name, "ollama", simulator.url, capacity=4)
            await stack.enter_async_context(lane_of(server.url, settings))
        client = await stack.enter_async_context(Client(server.url, agent="agents"))
        tasks = await stack.enter_async_context(background())

        async def ask(role: str, model: str) -> None:
            with suppress(LlmError):
                await client.complete("A question", role=role, model=model)

        async def keep_asking(role: str, every_s: float, model: str) -> None:
            while True:
                tasks.create_task(ask(role, model))
                await asyncio.sleep(random.expovariate(1 / every_s))

        for role, (every_s, model) in ROLES.items():
            tasks.create_task(keep_asking(role, every_s, model))
        site = await stack.enter_async_context(farm(directory, server.url))
        dashboard = await site.tokenlane("dashboard", "--listen", "127.0.0.1:0")
        await dashboard.says("page ")
        page = await stack.enter_async_context(chromium(directory / "browser"))
        await page.resize(1280, 880)
        await page.open(dashboard.out.split()[1])
        await asyncio.sleep(110)
        await page.picture(PICTURES / "dashboard-light.png")
        await page.prefer("dark")
        await page.resize(390, 844, is_phone=True)
        await asyncio.sleep(3)
        await page.picture(PICTURES / "dashboard-phone.png")


asyncio.run(main())
