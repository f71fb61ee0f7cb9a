"""The model commands that a provider cannot carry out, and what to do instead."""

from __future__ import annotations

from tokenlane.worker.providers import LlmProvider, Loads, Pulls, SuggestsAlternatives, Verifies

_COMMANDS: dict[str, tuple[type, str]] = {
    "pull": (Pulls, "put the model where the model server loads its models from"),
    "verify": (Verifies, "compare its files on the model server's host with the hashes that its publisher lists"),
    "load": (Loads, "start the model server with the model"),
    "unload": (Loads, "stop the model server to free the memory"),
}
"""For each command, the protocol that a provider must implement, and the advice if the provider suggests nothing."""


def unsupported_commands(provider: LlmProvider) -> dict[str, str]:
    """The commands that this provider cannot carry out, each with what to do instead."""
    suggested = provider.alternatives if isinstance(provider, SuggestsAlternatives) else {}
    return {
        command: suggested.get(command, advice)
        for command, (protocol, advice) in _COMMANDS.items()
        if not isinstance(provider, protocol)
    }
