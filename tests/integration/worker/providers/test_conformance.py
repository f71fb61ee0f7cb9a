"""The conformance suite: each provider on the simulator of its server, and the suite on providers that lie."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence

import pytest
from tests.matrix import agrees

from tokenlane.benches.simulator import Simulator
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.results import ModelInfo
from tokenlane.worker.providers import default_registry
from tokenlane.worker.providers.conformance import Report, check_provider
from tokenlane.worker.providers.openai.provider import OpenAiProvider

CHAT, EMBED = "sim-vision", "sim-embed"
MODELS = {"ollama": (CHAT, EMBED), "lmstudio": (CHAT, EMBED), "openai": (CHAT, EMBED)}
"""Servers with many models; the others have one, and another server for embeddings."""


async def checked(api: str, models: Sequence[str], only: Sequence[str] | None = None) -> Report:
    """What the suite finds of a provider on the simulator."""
    loaded = models[:1] if api == "ollama" else None  # what it continues is known of loaded models only
    async with Simulator(api=api, capacity=2, models=models, loaded=loaded) as simulator:

        async def busy() -> int:
            return simulator.running

        lane = LaneSettings("gpu0", api, simulator.url)
        async with default_registry().create(lane) as provider:
            return await check_provider(
                provider, models[0], name=api, embedding_model=models[-1], busy=busy, patience_s=20, only=only
            )


@pytest.mark.parametrize("api", ["ollama", "vllm", "lmstudio", "tgi", "llamacpp", "openai"])
async def test_each_provider_on_its_simulator(api: str) -> None:
    """No promise is broken, and what works is what is written down."""
    reports = [await checked(api, MODELS.get(api, (CHAT,)))]
    if api in ("vllm", "llamacpp"):
        reports.append(await checked(api, (EMBED,), only=["embed"]))
    agrees(api, "simulator", *reports)


class Liar(OpenAiProvider):
    """Says that it can do everything."""

    async def models(self) -> list[ModelInfo]:
        can = ("chat", "schema", "tools", "vision", "prefill", "embed")
        return [model.model_copy(update={"capabilities": can}) for model in await super().models()]


class Forgetful(OpenAiProvider):
    """Leaves out the end, and accepts a partial answer that it cannot continue."""

    async def chat(
        self, request: ChatRequest, model: str, resume: str | None = None
    ) -> AsyncGenerator[TokenDelta, None]:
        async for delta in super().chat(request, model):
            if delta.finish_reason is None:
                yield delta


class Clumsy(OpenAiProvider):
    """Lets errors through that are none of ours, and never leaves an answer."""

    async def chat(
        self, request: ChatRequest, model: str, resume: str | None = None
    ) -> AsyncGenerator[TokenDelta, None]:
        try:
            async for delta in super().chat(request, model, resume):
                yield delta
        except LlmError:
            raise ValueError("oops") from None
        except asyncio.CancelledError:
            raise RuntimeError("cancelled") from None


@pytest.mark.parametrize(
    ("provider", "failed"),
    [
        (Liar, {"vision", "prefill", "embed"}),
        (Forgetful, {"chat", "limit", "stop", "cancel", "schema", "tools", "prefill"}),
        (Clumsy, {"cancel", "errors", "vision", "prefill"}),
    ],
)
async def test_a_broken_promise_is_found(provider: type[OpenAiProvider], failed: set[str]) -> None:
    """What is declared and does not work, an end that is missing, an error that is none: each fails its check."""
    async with Simulator(api="openai", models=("sim",)) as simulator:
        async with provider(LaneSettings("gpu0", "openai", simulator.url)) as lying:
            report = await check_provider(lying, "sim", patience_s=20)
    assert not report.passed
    assert {finding.check for finding in report.results if finding.outcome == "failed"} == failed


async def test_cancelling_is_not_said_to_work_unseen() -> None:
    """Where nothing tells what the server runs, it is open whether leaving an answer frees its slot."""
    async with Simulator(api="vllm", models=("sim",)) as simulator:
        async with default_registry().create(LaneSettings("gpu0", "vllm", simulator.url)) as provider:
            report = await check_provider(provider, "sim", patience_s=20, only=["cancel"])
    assert [finding.outcome for finding in report.results if finding.check == "cancel"] == ["open"]


@pytest.mark.parametrize(("model", "code"), [("sim", 0), ("nosuch", 1)])
async def test_from_the_command_line(model: str, code: int) -> None:
    """It prints a table, and its exit code says whether all promises hold."""
    async with Simulator(api="vllm") as simulator:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tokenlane.worker.providers.conformance"),
            *("--provider", "vllm", "--endpoint", simulator.url, "--model", model),
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
    assert process.returncode == code
    assert said.decode().startswith(f"provider vllm, model {model}\nmodels ")


async def test_an_unknown_provider_on_the_command_line() -> None:
    """It is a mistake of who calls: 2."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tokenlane.worker.providers.conformance", "--provider", "nosuch", "--model", "m"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    assert b"No provider is called 'nosuch'" in said
