"""The commands that connect another shell to a pool. They contain the pool's password and keys."""

from __future__ import annotations

import ipaddress
import shlex
from dataclasses import dataclass
from urllib.parse import urlsplit

from tokenlane.config.extras import install_command
from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.config.host.sentinel_urls import SentinelUrl, is_sentinel_url

AGENT = 'tokenlane chat "Name three primes." --role planner'
"""The command of an agent."""
WORKER = "tokenlane worker --lane gpu0"
"""The command of a worker."""
_BEFORE_WORKER = "tokenlane probe\ntokenlane worker --check --lane gpu0"
_WORKER_OPTIONS = """\
tokenlane probe lists the model servers of the host. The worker serves the first of them; to serve another one, add its
--provider (ollama, vllm, lmstudio, tgi, llamacpp, or openai for any other server) and --endpoint to both worker
commands, as in --provider vllm --endpoint http://localhost:8000. Name each lane of the pool differently."""
_REDIS_PORT = 6379


@dataclass(frozen=True, repr=False)
class Invitation:
    """An invitation to a pool. `url` is the URL of its Redis server for other users or hosts."""

    url: str
    pool: str
    keys: KeyRing

    @property
    def exports(self) -> str:
        """The command that sets the variables for the pool in a shell. A secret."""
        settings = {"TOKENLANE_REDIS_URL": self.url}
        if self.keys.keys:
            settings["TOKENLANE_POOL_KEY"] = self.keys.reveal()
        if self.pool != "main":
            settings["TOKENLANE_POOL"] = self.pool
        return "export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())

    def text(self) -> str:
        """Return the commands for an agent and for a worker, with explanations."""
        host, agent, note = "another host", "an agent", ""
        if self._on_loopback:
            host, agent = "this host", "an agent of another user"
            # No backquotes: an interactive zsh does not know comments, and would run the command between them.
            note = f"# {self._note_on_loopback()}\n\n"
        install_agent, install_worker = install_command("cli"), install_command("worker")
        return (
            f"These commands contain secrets: whoever has them can use the pool.\n\n{note}"
            f"On {host}, for {agent} (in a checkout: {install_agent}):\n\n{self.exports}\n{AGENT}\n\n"
            f"On a GPU host, next to its model server (in a checkout: {install_worker}):\n\n"
            f"{self.exports}\n{_BEFORE_WORKER}\n{WORKER}\n\n"
            f"{_WORKER_OPTIONS}\n"
        )

    def _note_on_loopback(self) -> str:
        if is_sentinel_url(self.url):
            return (
                "The URL names a Sentinel by a loopback address, which other hosts cannot reach. To let them in, use "
                "addresses that they reach, for the Sentinels and for the servers that the Sentinels watch."
            )
        return (
            "The pool listens on a loopback address, which other hosts cannot reach. To let them in, start the pool "
            "with tokenlane up --listen ADDRESS, or open an SSH tunnel to port "
            f"{urlsplit(self.url).port or _REDIS_PORT} of this host."
        )

    @property
    def _on_loopback(self) -> bool:
        if is_sentinel_url(self.url):
            return any(_is_loopback(host) for host, _ in SentinelUrl.parse(self.url).addresses)
        return _is_loopback(urlsplit(self.url).hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
