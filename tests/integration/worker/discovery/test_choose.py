"""What `up` and `demo` serve where nothing says which provider."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from tests import pages
from tests.integration.servers import free_port

from tokenlane.benches.simulator import Simulator
from tokenlane.config.exit_codes import OK, USAGE, ConfigError
from tokenlane.config.settings.load import lane_options, names_provider
from tokenlane.config.settings.values import LaneSettings
from tokenlane.worker.discovery.choose import choose_model_server, describe_choice
from tokenlane.worker.discovery.targets import Target


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration: neither in the environment, nor in files."""
    for name in os.environ:
        if name.startswith("TOKENLANE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def lane(endpoint: str | None = None, models: tuple[str, ...] = ()) -> LaneSettings:
    return LaneSettings("gpu0", "builtin", endpoint, models)


def search_targets(*endpoints: str) -> list[Target]:
    """Where to look."""
    return [Target(lane(endpoint)) for endpoint in endpoints]


async def test_the_first_that_can_chat_is_chosen() -> None:
    """Servers without a chat model are passed over; which was chosen, and why, is told."""
    without = {**pages.OLLAMA, "/api/tags": {"models": []}}
    async with pages.serving(without) as ollama, pages.serving(pages.LM_STUDIO) as studio:
        there = search_targets(f"http://127.0.0.1:{free_port()}", ollama, studio)
        seen = await asyncio.to_thread(choose_model_server, lane(), there)
        assert seen is not None
        assert (seen.provider, seen.lane.endpoint) == ("lmstudio", studio)
        assert describe_choice(seen).startswith(f"openai/gpt-oss-20b on LM Studio at {studio}")
        assert await asyncio.to_thread(choose_model_server, lane(models=("phi3",)), there) is None
        assert await asyncio.to_thread(choose_model_server, lane(), search_targets(ollama)) is None


async def test_what_is_at_a_named_endpoint_is_recognised() -> None:
    """An endpoint without a provider gets the one that is there, or is an error; nothing else is looked at."""
    async with pages.serving(pages.VLLM) as vllm, pages.serving(pages.UNRELATED) as unrelated:
        seen = await asyncio.to_thread(choose_model_server, lane(vllm), search_targets(unrelated))
        assert seen is not None
        assert seen.provider == "vllm"
        with pytest.raises(ConfigError, match=unrelated) as refused:
            await asyncio.to_thread(choose_model_server, lane(unrelated), search_targets(vllm))
    assert ".." not in str(refused.value)
    async with Simulator(api="openai", api_key="right") as locked:
        with pytest.raises(ConfigError, match=locked.url) as refused:
            await asyncio.to_thread(choose_model_server, lane(locked.url), [])
    assert ".." not in str(refused.value)


def test_what_is_configured_is_not_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A provider that an option, a variable or the file names is the one."""
    assert not names_provider()
    assert not names_provider(lane_options(endpoint="http://127.0.0.1:1"))
    assert names_provider(lane_options(provider="builtin"))
    (tmp_path / "llm.toml").write_text('[ollama]\nendpoint = "http://127.0.0.1:1"\n')
    assert not names_provider()
    (tmp_path / "llm.toml").write_text('[defaults]\nprovider = "builtin"\n')
    assert names_provider()
    (tmp_path / "llm.toml").unlink()
    monkeypatch.setenv("TOKENLANE_PROVIDER", "vllm")
    assert names_provider()


async def command(verb: str, tmp_path: Path, **environment: str) -> tuple[int | None, str]:
    """A verb's exit code and words."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tokenlane.config", verb),
        env={**os.environ, "TOKENLANE_HOME": str(tmp_path / "home"), **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        words, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, words.decode()


async def test_the_demo_on_a_server_that_was_found(tmp_path: Path) -> None:
    """The demo says which server it found, and its answers come from there."""
    async with Simulator(api="ollama", models=("phi3:latest",), tokens=3) as simulator:
        code, words = await command("demo", tmp_path, TOKENLANE_ENDPOINT=simulator.url)
        assert code == OK, words
        assert f"phi3:latest on Ollama at {simulator.url}, " in words
        assert "planner gets: w0 w1 w2" in words
        assert {received.model for received in simulator.log} == {"phi3:latest"}


async def test_up_at_an_endpoint_that_is_none(tmp_path: Path) -> None:
    """An endpoint that does not answer ends `up` before it starts anything."""
    code, words = await command("up", tmp_path, TOKENLANE_ENDPOINT=f"http://127.0.0.1:{free_port()}")
    assert code == USAGE
    assert "Nothing listens at this address" in words
    assert "Traceback" not in words
