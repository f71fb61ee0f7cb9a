"""The model commands that a provider cannot carry out, and what to do instead."""

from __future__ import annotations

from collections.abc import Callable

from tokenlane.worker.providers import LlmProvider, Pulls, SuggestsAlternatives, Verifies, can_load

_COMMANDS: dict[str, tuple[Callable[[LlmProvider], bool], str]] = {
    "pull": (
        lambda provider: isinstance(provider, Pulls),
        "put the model where the model server loads its models from",
    ),
    "verify": (
        lambda provider: isinstance(provider, Verifies),
        "compare its files on the model server's host with the hashes that its publisher lists",
    ),
    "load": (can_load, "start the model server with the model"),
    "unload": (can_load, "stop the model server to free the memory"),
}
"""For each command, whether a provider can carry it out, and the advice if it cannot and suggests nothing."""


def unsupported_commands(provider: LlmProvider) -> dict[str, str]:
    """The commands that this provider cannot carry out, each with what to do instead."""
    suggested = provider.alternatives if isinstance(provider, SuggestsAlternatives) else {}
    return {
        command: suggested.get(command, advice)
        for command, (supports, advice) in _COMMANDS.items()
        if not supports(provider)
    }
