"""The lines that let another shell use a pool; they hold the pool's password and keys."""

from __future__ import annotations

import ipaddress
import shlex
from dataclasses import dataclass
from urllib.parse import urlsplit

from tokenlane.config.extras import install_command
from tokenlane.config.host.pool_key_files import KeyRing

AGENT = 'tokenlane chat "Name three primes." --role planner'
"""The command of an agent."""
WORKER = "tokenlane worker --lane NAME --provider PROVIDER --endpoint http://localhost:PORT"
"""The command of a worker."""
_REDIS_PORT = 6379


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

    def text(self) -> str:
        """Return all lines, with the hosts they are for."""
        host, agent, note = "another host", "an agent", ""
        if self._on_loopback:
            host, agent = "this host", "an agent of another user"
            # Without backquotes: a shell that does not know comments would run what is between them.
            note = (
                "# The pool listens at a loopback address. Another host needs: tokenlane up --listen ADDRESS, or an "
                f"SSH tunnel to port {urlsplit(self.url).port or _REDIS_PORT} of this host.\n\n"
            )
        install_agent, install_worker = install_command("cli"), install_command("worker")
        return (
            f"These lines hold secrets: whoever has them can use the pool.\n\n{note}"
            f"On {host}, for {agent} (in a checkout: {install_agent}):\n\n{self.exports}\n{AGENT}\n\n"
            f"On a GPU host, next to its model server (in a checkout: {install_worker}):\n\n{self.exports}\n{WORKER}\n"
        )

    @property
    def _on_loopback(self) -> bool:
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"
