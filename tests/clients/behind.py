"""A pool with a simulated model server, and `tokenlane serve` in front of it, for clients of OpenAI and Anthropic."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

from tests.integration.lanes import lane_of

from tokenlane.benches.simulator import Simulator
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.decide.policy import Limits, Policy, RolePolicy
from tokenlane.routing.store.access.api_key import ApiKey
from tokenlane.routing.store.pool import connect

_COMMAND = (sys.executable, "-c", "from tokenlane.config.cli.root import main; main()", "serve", "--port", "0")
FULL = "role:full"
"""The name of a role that may have a single request."""
NPM = Path(sys.prefix) / "npm"
"""Where `make test-clients` installs packages from npm."""
MODELS = ("sim", "thinker", "vision", "embed")


class Door:
    """A gateway in front of a pool with a simulated model server, as an async context manager.

    Args:
        redis_url: the pool's server.
    """

    def __init__(self, redis_url: str) -> None:
        self.redis_url = redis_url
        self._opened = AsyncExitStack()
        self.url = ""
        """The address, without a path: the base URL for clients of Anthropic's."""
        self.key = ""
        """The API key that clients must send."""
        self.simulator = Simulator(api="vllm", models=MODELS, tokens=3, capacity=8)

    @property
    def openai(self) -> str:
        """The base URL for clients of OpenAI's."""
        return f"{self.url}/v1"

    async def __aenter__(self) -> Self:
        async with self._opened as opening:
            await opening.enter_async_context(self.simulator)
            async with connect(self.redis_url) as pool:
                await pool.policies.write(Policy(roles={"full": RolePolicy(limits=Limits(depth=1))}))
                self.key = await pool.api_keys.add(ApiKey(name="clients", agent="clients", created_s=0))
            settings = LaneSettings("gpu0", "vllm", self.simulator.url)
            await opening.enter_async_context(lane_of(self.redis_url, settings))
            self.url = await opening.enter_async_context(gateway(self.redis_url))
            self._opened = opening.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    def ended(self, index: int) -> str | None:
        """How the model server's request with this number ended."""
        return next((received.ended for received in self.simulator.log if received.index == index), None)


@asynccontextmanager
async def gateway(redis_url: str) -> AsyncIterator[str]:
    """The URL of `tokenlane serve` in front of this pool."""
    serving = await asyncio.create_subprocess_exec(
        *_COMMAND, "--redis", redis_url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert serving.stdout is not None
    try:
        said = b""
        async with asyncio.timeout(30):
            while (named := re.search(rb"(http://\S+)/v1\s", said)) is None:
                line = await serving.stdout.readline()
                assert line, said.decode()
                said += line
        reading = asyncio.create_task(serving.stdout.read())  # so that it never waits for a reader
        yield named[1].decode()
        serving.terminate()
        async with asyncio.timeout(20):
            await serving.wait()
            await reading
    finally:
        if serving.returncode is None:
            serving.kill()
            await serving.wait()
