"""The information that a worker registers with the pool: its host and the versions of its software."""

from __future__ import annotations

import platform
import socket
from contextlib import suppress
from importlib.metadata import version

from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.decide.lanes.offer import WorkerInfo
from tokenlane.worker.providers import LlmProvider, ReportsVersion


async def worker_info(provider: LlmProvider) -> WorkerInfo:
    """Collect the host's name and the versions of the software, including the model server's if it reports one."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in ("tokenlane", "arq", "redis")}}
    if isinstance(provider, ReportsVersion):
        with suppress(LlmError):
            if (server := await provider.version()) is not None:
                versions["server"] = server
    return WorkerInfo(socket.gethostname(), versions)
