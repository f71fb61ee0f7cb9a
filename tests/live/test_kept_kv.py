"""A lane keeps a model's KV cache while the model is unloaded, on real servers of llama.cpp."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import pytest
from tests.fake_server import ask

from tokenlane.benches.measure.swap.router import llamacpp_router
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.results import ModelInfo
from tokenlane.worker.builtin import model
from tokenlane.worker.providers.openai.llamacpp import LlamaCppProvider

pytestmark = pytest.mark.live

PROMPT = " ".join(f"Line {number} has apples and pears." for number in range(20))


async def usage_of(provider: LlamaCppProvider, name: str) -> Usage:
    """What the server counted for the prompt."""
    deltas = [delta async for delta in provider.chat(ask(PROMPT, max_tokens=2, temperature=0), name)]
    assert deltas[-1].usage is not None
    return deltas[-1].usage


async def info_of(provider: LlamaCppProvider, name: str) -> ModelInfo:
    """The model as the lane lists it."""
    return next(info for info in await provider.models() if info.name == name)


async def test_a_to_b_and_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The server counts the prompt as cached after the model was away, and no file is left or readable for others."""
    caplog.set_level(logging.INFO, "tokenlane")
    file, slots = await model.fetch(), tmp_path / "slots"
    slots.mkdir(mode=0o700)
    async with llamacpp_router({"a": file, "b": file}, slots) as url:
        async with LlamaCppProvider(LaneSettings("gpu0", "llamacpp", url, keep_kv=True)) as provider:
            assert [info.loaded for info in await provider.models()] == [False, False]
            cold = await usage_of(provider, "a")
            assert cold.cached_tokens == 0
            await provider.load("b")
            files = list(slots.iterdir())
            assert [stat.S_IMODE(each.stat().st_mode) for each in files] == [0o600]
            warm = await usage_of(provider, "a")
            assert (warm.prompt_tokens, warm.cached_tokens) == (cold.prompt_tokens, cold.prompt_tokens - 1)
            info = await info_of(provider, "a")
            assert info.kv_tokens_kept is not None
            assert info.kv_tokens_kept >= cold.prompt_tokens
            assert info.kv_lost_because == ""
            await usage_of(provider, "b")  # "a" leaves again
            assert list(slots.iterdir())
        assert not list(slots.iterdir())  # deleted with the end of the worker

        slots.chmod(0o755)
        async with LlamaCppProvider(LaneSettings("gpu0", "llamacpp", url, keep_kv=True)) as provider:
            await provider.models()
            await usage_of(provider, "b")
            assert (await usage_of(provider, "a")).cached_tokens == 0
            assert (await usage_of(provider, "b")).cached_tokens == 0
            info = await info_of(provider, "b")
            assert (info.kv_tokens_kept, "chmod 700" in info.kv_lost_because) == (0, True)
        assert not list(slots.iterdir())
    assert "apples" not in caplog.text
