"""Each server is asked in its own way whether it can work."""

from __future__ import annotations

from typing import Any

import pytest
from tests import pages
from tests.fake_server import Reply, driven

from tokenlane.routing.contract.errors import LlmError, ProviderDown, Timeout, Unauthorized
from tokenlane.worker.providers import ReportsHealth

PATHS: dict[str, tuple[str, Any]] = {
    "ollama": ("/api/version", pages.OLLAMA["/api/version"]),
    "openai": ("/v1/models", pages.OTHER_OPENAI["/v1/models"]),
    "vllm": ("/health", Reply()),
    "tgi": ("/health", Reply()),
    "llamacpp": ("/health", {"status": "ok"}),
    "lmstudio": ("/api/v1/models", pages.LM_STUDIO["/api/v1/models"]),
}


@pytest.mark.parametrize("name", PATHS)
async def test_healthy(name: str) -> None:
    """Its page says so, and nothing is run."""
    path, page = PATHS[name]
    async with driven(name, {f"GET {path}": page}) as (provider, server):
        assert isinstance(provider, ReportsHealth)
        await provider.healthy()
        assert server.asked == []


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(("status", "error"), [(503, ProviderDown), (500, ProviderDown), (401, Unauthorized)])
async def test_not_healthy(name: str, status: int, error: type[LlmError]) -> None:
    """A refusal is an error that says where."""
    async with driven(name, {f"GET {PATHS[name][0]}": Reply({"error": "x"}, status)}) as (provider, _):
        with pytest.raises(error) as raised:
            await provider.healthy()
        assert (raised.value.provider, raised.value.lane) == (name, "gpu0")


async def test_lm_studio_that_is_none() -> None:
    """A page that answers 200 to everything is no health."""
    async with driven("lmstudio", {"GET /api/v1/models": pages.UNEXPECTED}) as (provider, _):
        with pytest.raises(ProviderDown):
            await provider.healthy()


async def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says nothing is not healthy."""
    monkeypatch.setattr("tokenlane.worker.providers.http.provider.HEALTH_TIMEOUT_S", 1e-9)
    async with driven("vllm", {"GET /health": Reply()}) as (provider, _):
        with pytest.raises(Timeout):
            await provider.healthy()
