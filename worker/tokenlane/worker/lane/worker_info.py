"""What a worker says of itself, once, to those who watch the pool."""

from __future__ import annotations

import platform
import socket
from importlib.metadata import version

from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.decide.lanes.offer import Facts
from tokenlane.worker.providers import LlmProvider, TellsVersion

_DISTRIBUTIONS = ("tokenlane", "arq", "redis")


async def facts_of(provider: LlmProvider) -> Facts:
    """This host, and the versions of what runs here; the back end's too, if its provider can tell."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in _DISTRIBUTIONS}}
    server = await _server_version(provider)
    if server is not None:
        versions["server"] = server
    return Facts(socket.gethostname(), versions)


async def _server_version(provider: LlmProvider) -> str | None:
    if not isinstance(provider, TellsVersion):
        return None
    try:
        return await provider.version()
    except LlmError:
        return None
