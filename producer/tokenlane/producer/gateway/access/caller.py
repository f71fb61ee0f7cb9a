"""The caller of a request: the agent, role, priority and conversation that its key and its headers give it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tokenlane.routing.contract.envelope import Quota
from tokenlane.routing.contract.wire import Priority

_SESSION_HEADERS = (
    "x-claude-code-session-id",
    "x-session-id",
    "session-id",
    "session_id",
    "x-session-affinity",
    "x-dynamo-session-id",
)
"""Where coding agents say to which of their sessions a request belongs."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}")
_LONGEST_AGENT = 100


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Args:
        agent: the agent's name in the pool.
        role: the role of requests that name none; None for the gateway's own.
        priority: the priority of requests that name none, and the highest that the caller may ask for.
        conversation: the conversation that a coding agent's headers name.
        quota: the limit that counts all requests of the caller, whatever its users; None for none.
    """

    agent: str
    role: str | None = None
    priority: Priority = "normal"
    conversation: str | None = None
    quota: Quota | None = None

    def user(self, name: str | None) -> str:
        """The agent for one of the caller's users or sessions. Their names may be personal: the pool gets a hash."""
        name = name or self.conversation
        return self.agent if name is None else f"{self.agent[:_LONGEST_AGENT]}.{_hash(name)}"

    def has(self, agent: str) -> bool:
        """Whether an agent of the pool is this caller, or one of its users or sessions."""
        users = re.escape(self.agent[:_LONGEST_AGENT]) + r"\.[0-9a-f]{16}"
        return agent == self.agent or re.fullmatch(users, agent) is not None


def session_of(headers: Mapping[str, str]) -> str | None:
    """The conversation that a coding agent's headers name, as a valid name; None if they name none."""
    given = next((value for header in _SESSION_HEADERS if (value := headers.get(header))), None)
    if given is None:
        return None
    return name_of(given)


def name_of(text: str) -> str:
    """A conversation's name for any text: the text itself if it is a valid name, else its hash."""
    return text if _NAME.fullmatch(text) else _hash(text)


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]
