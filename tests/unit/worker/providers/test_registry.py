"""Providers by name: those of other distributions too, and what their lanes announce."""

from __future__ import annotations

import socket
from importlib.metadata import EntryPoint, EntryPoints
from unittest.mock import patch

import pytest

from tokenlane.config.settings.values import LaneSettings
from tokenlane.worker.lane.model_server.describe_lane import describe_lane
from tokenlane.worker.providers import ProviderRegistry, default_registry, registry
from tokenlane.worker.providers.openai.provider import OpenAiProvider

OTHERS = EntryPoints(
    [
        EntryPoint("theirs", "tokenlane.worker.providers.openai.provider:OpenAiProvider", registry.ENTRY_POINTS),
        EntryPoint("broken", "no.such.module:Provider", registry.ENTRY_POINTS),
    ]
)


async def test_a_provider_by_entry_point() -> None:
    """A lane may name it; one that cannot be imported harms nobody who does not."""
    with patch.object(registry, "entry_points", lambda **choice: OTHERS.select(**choice)):
        providers = ProviderRegistry()
        assert providers.names() == ["broken", "theirs"]
        async with providers.create(LaneSettings("gpu0", "theirs", "http://127.0.0.1:1")) as provider:
            assert type(provider) is OpenAiProvider


async def test_the_same_address_named_or_not() -> None:
    """A lane that names no endpoint and one that names the provider's default announce the same."""
    providers = default_registry()
    for named in (None, "http://localhost:8080", "http://127.0.0.1:8080/v1/"):
        settings = LaneSettings("gpu0", "llamacpp", named, models=("m",), capacity=1)
        async with providers.create(settings) as provider:
            assert (await describe_lane(settings, provider)).endpoint == f"http://{socket.gethostname()}:8080"


@pytest.mark.parametrize(
    ("provider", "unsupported"),
    [
        ("ollama", set()),
        ("lmstudio", {"verify"}),
        ("vllm", {"load", "unload"}),
        ("openai", {"pull", "verify", "load", "unload"}),
    ],
)
async def test_a_lane_announces_what_it_cannot_do(provider: str, unsupported: set[str]) -> None:
    """The model commands that its provider does not support, each with what to do instead."""
    settings = LaneSettings("gpu0", provider, "http://127.0.0.1:1", models=("m",), capacity=1)
    async with default_registry().create(settings) as created:
        announced = (await describe_lane(settings, created)).offer.unsupported
    assert announced.keys() == unsupported
    assert all(announced.values())
