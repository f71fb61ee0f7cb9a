"""The lines that let another shell use a pool; they hold the pool's password and keys."""

from __future__ import annotations

import ipaddress
import shlex
from dataclasses import dataclass
from urllib.parse import urlsplit

from tokenlane.config.host.pool_key_files import KeyRing

AGENT = 'tokenlane chat "Name three primes." --role planner'
"""The line of an agent."""
_AGENT_INSTALL = "pip install 'tokenlane[cli]'"
_WORKER_INSTALL = "pip install 'tokenlane[worker]'"


@dataclass(frozen=True, repr=False)
class Invitation:
    """A pool, with the URL at which others reach it."""

    url: str
    pool: str
    keys: KeyRing

    @property
    def exports(self) -> str:
        """The line that every other shell needs. A secret."""
        settings = {"TOKENLANE_REDIS_URL": self.url}
        if self.keys.keys:
            settings["TOKENLANE_POOL_KEY"] = self.keys.reveal()
        if self.pool != "main":
            settings["TOKENLANE_POOL"] = self.pool
        return "export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())

    @property
    def worker(self) -> str | None:
        """The line of a worker on another host; None if the pool is at a loopback address."""
        host = urlsplit(self.url).hostname or ""
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = host == "localhost"
        return None if loopback else "tokenlane worker"

    def text(self) -> str:
        """Return all lines, with the host they are for."""
        if self.worker is None:
            return (
                "Only this host reaches the pool: it listens at a loopback address. Your own commands find it without "
                f"this.\nFor an agent of another user of this host ({_AGENT_INSTALL}):\n\n{self.exports}\n{AGENT}\n"
            )
        return (
            f"On another host, for an agent ({_AGENT_INSTALL}):\n\n{self.exports}\n{AGENT}\n\n"
            f"On a GPU host, next to its model server ({_WORKER_INSTALL}):\n\n{self.exports}\n{self.worker}\n"
        )
