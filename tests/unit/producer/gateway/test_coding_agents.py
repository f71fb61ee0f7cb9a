"""What coding agents are started with."""

from __future__ import annotations

import json
import tomllib
from typing import get_args

import pytest

from tokenlane.producer.commands.gateway.launch import Tool
from tokenlane.producer.gateway.coding_agents import CODING_AGENTS, Endpoint

TO = Endpoint("http://127.0.0.1:4000", "tl-secret", "role:coder")


def test_the_command_line_knows_all() -> None:
    assert set(get_args(Tool)) == set(CODING_AGENTS)


@pytest.mark.parametrize("name", CODING_AGENTS)
def test_no_key_is_among_the_arguments(name: str) -> None:
    """Other users of the host see arguments."""
    setup = CODING_AGENTS[name].set_up(TO)
    assert TO.key not in " ".join(setup.arguments)
    assert any(TO.key in value for value in setup.variables.values())


def test_claude_asks_for_the_model_whatever_it_wants() -> None:
    setup = CODING_AGENTS["claude"].set_up(TO)
    assert setup.variables["ANTHROPIC_BASE_URL"] == TO.url
    assert {value for name, value in setup.variables.items() if name.endswith("MODEL")} == {TO.model}
    assert "ANTHROPIC_API_KEY" in setup.unset


def test_codex_gets_a_provider_of_its_own() -> None:
    setup = CODING_AGENTS["codex"].set_up(TO)
    flags, settings = setup.arguments[::2], setup.arguments[1::2]
    assert set(flags) == {"-c"}
    document = tomllib.loads("\n".join(settings))
    provider = document["model_providers"][document["model_provider"]]
    assert (document["model"], provider["wire_api"]) == (TO.model, "responses")
    assert provider["base_url"] == f"{TO.url}/v1"
    assert setup.variables[provider["env_key"]] == TO.key


def test_opencode_gets_a_provider_of_its_own() -> None:
    document = json.loads(CODING_AGENTS["opencode"].set_up(TO).variables["OPENCODE_CONFIG_CONTENT"])
    provider, _, model = document["model"].partition("/")
    assert model in document["provider"][provider]["models"]
    assert document["provider"][provider]["options"] == {"baseURL": f"{TO.url}/v1", "apiKey": TO.key}


def test_aider_asks_in_openais_way() -> None:
    setup = CODING_AGENTS["aider"].set_up(TO)
    assert setup.variables == {"OPENAI_API_BASE": f"{TO.url}/v1", "OPENAI_API_KEY": TO.key}
    assert f"openai/{TO.model}" in setup.arguments
