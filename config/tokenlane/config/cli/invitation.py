"""What makes another shell part of a pool: the lines to paste there, which hold the password and the keys."""

from __future__ import annotations

import ipaddress
import shlex
from dataclasses import dataclass
from urllib.parse import urlsplit

from tokenlane.config.host.pool_key_files import KeyRing

_AGENT = "pip install 'tokenlane[cli]'"
_WORKER = "pip install 'tokenlane[worker]'"


@dataclass(frozen=True, repr=False)
class Invitation:
    """A pool, as others reach it."""

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
    def agent(self) -> str:
        """The line that asks."""
        return 'tokenlane chat "Name three primes." --role planner'

    @property
    def worker(self) -> str | None:
        """The line that serves a model server of that host; None if no other host can reach the pool."""
        return None if self.for_this_host_only else "tokenlane worker"

    @property
    def for_this_host_only(self) -> bool:
        """Whether the pool is at an address of loopback."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def text(self) -> str:
        """All of it, for people."""
        if self.worker is None:
            return (
                "Only this host reaches the pool: it listens at a loopback address. Your own commands find it without "
                f"this.\nFor an agent of another user of this host ({_AGENT}):\n\n{self.exports}\n{self.agent}\n"
            )
        return (
            f"On another host, for an agent ({_AGENT}):\n\n{self.exports}\n{self.agent}\n\n"
            f"On a GPU host, beside its model server ({_WORKER}):\n\n{self.exports}\n{self.worker}\n"
        )
