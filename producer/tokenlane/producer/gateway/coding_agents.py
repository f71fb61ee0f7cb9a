"""The coding agents that `tokenlane launch` starts: their programs, and the settings that point them at a gateway."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

_PROVIDER = "tokenlane"


@dataclass(frozen=True)
class Endpoint:
    """Where a coding agent asks, and for what. `url`: the gateway's URL, without a path."""

    url: str
    key: str
    model: str


@dataclass(frozen=True)
class Setup:
    """What a coding agent is started with: environment variables, and arguments before those of the user.

    `unset`: variables that would make it ask somebody else.
    """

    variables: Mapping[str, str]
    arguments: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()


_SetUp: TypeAlias = Callable[[Endpoint], Setup]


@dataclass(frozen=True)
class CodingAgent:
    """A coding agent. `install`: the command that installs it."""

    program: str
    install: str
    set_up: _SetUp


def _claude(to: Endpoint) -> Setup:
    names = ("MODEL", "DEFAULT_OPUS_MODEL", "DEFAULT_SONNET_MODEL", "DEFAULT_HAIKU_MODEL", "SMALL_FAST_MODEL")
    variables = {f"ANTHROPIC_{name}": to.model for name in names}
    variables |= {
        "ANTHROPIC_BASE_URL": to.url,
        "ANTHROPIC_AUTH_TOKEN": to.key,
        "CLAUDE_CODE_SUBAGENT_MODEL": to.model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    return Setup(variables, unset=("ANTHROPIC_API_KEY",))


def _codex(to: Endpoint) -> Setup:
    provider = {
        "name": _PROVIDER,
        "base_url": f"{to.url}/v1",
        "wire_api": "responses",
        "env_key": "TOKENLANE_GATEWAY_KEY",
    }
    settings = {f"model_providers.{_PROVIDER}.{key}": value for key, value in provider.items()}
    settings |= {"model_provider": _PROVIDER, "model": to.model, "web_search": "disabled"}  # OpenAI's own tool
    arguments = (part for key, value in settings.items() for part in ("-c", f"{key}={json.dumps(value)}"))
    return Setup({"TOKENLANE_GATEWAY_KEY": to.key}, tuple(arguments))


def _opencode(to: Endpoint) -> Setup:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": _PROVIDER,
        "options": {"baseURL": f"{to.url}/v1", "apiKey": to.key},
        "models": {to.model: {"name": to.model}},
    }
    model = f"{_PROVIDER}/{to.model}"
    settings = {"provider": {_PROVIDER: provider}, "model": model, "small_model": model}
    return Setup({"OPENCODE_CONFIG_CONTENT": json.dumps(settings)})


def _aider(to: Endpoint) -> Setup:
    model = f"openai/{to.model}"
    arguments = ("--model", model, "--weak-model", model, "--no-show-model-warnings")
    return Setup({"OPENAI_API_BASE": f"{to.url}/v1", "OPENAI_API_KEY": to.key}, arguments)


CODING_AGENTS: Mapping[str, CodingAgent] = {
    "claude": CodingAgent("claude", "npm install -g @anthropic-ai/claude-code", _claude),
    "codex": CodingAgent("codex", "npm install -g @openai/codex", _codex),
    "opencode": CodingAgent("opencode", "npm install -g opencode-ai", _opencode),
    "aider": CodingAgent("aider", "pip install aider-chat", _aider),
}
"""All coding agents, by the name that `tokenlane launch` takes."""
