"""An API key: what the pool knows of it, which is all but the secret."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tokenlane.routing.contract.wire import Name, Priority, Value

_PREFIX = "tl-"
_SECRET_BYTES = 32
_Seconds = Annotated[int, Field(ge=0, lt=253_402_300_800)]  # in the years of four digits


class ApiKey(Value):
    """An API key, with which HTTP clients ask through a gateway.

    Attributes:
        name: by which operators list and revoke the key.
        agent: the agent that asks with the key.
        role: the role of requests that name none; None for the gateway's own.
        priority: the priority of requests that name none, and the highest that they may ask for.
        in_flight: how many requests the key may have at once, through all gateways together; None for as many as the
            policy allows its agent.
        created_s: when it was added, in seconds since the epoch.
        expires_s: from when on it is no longer accepted, in seconds since the epoch; None for never.
    """

    name: Name
    agent: Name
    role: Name | None = None
    priority: Priority = "normal"
    in_flight: int | None = Field(default=None, ge=1)
    created_s: _Seconds
    expires_s: _Seconds | None = None

    def is_expired(self, now_s: float) -> bool:
        return self.expires_s is not None and self.expires_s <= now_s


@dataclass(frozen=True)
class ApiKeyTable:
    """All API keys of a pool at one moment.

    Args:
        keys: by the SHA-256 digests of their secrets, in hexadecimal digits.
        unreadable: names of keys that this version cannot read, sorted. They are not accepted.
    """

    keys: Mapping[str, ApiKey]
    unreadable: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether the pool has keys, which need not be valid: without keys anybody may ask."""
        return bool(self.keys or self.unreadable)

    @property
    def listed(self) -> tuple[ApiKey, ...]:
        """The keys by name, with those that have expired."""
        return tuple(sorted(self.keys.values(), key=lambda key: key.name))

    def find(self, secret: str, now_s: float) -> ApiKey | None:
        """The key with this secret; None if there is none, or if it has expired.

        Args:
            now_s: the time, in seconds since the epoch.
        """
        key = self.keys.get(digest_of(secret))
        return None if key is None or key.is_expired(now_s) else key


@dataclass(frozen=True)
class QuotaUse:
    """The limit of an API key at one moment.

    Args:
        name: of the key.
        in_flight: how many of its requests wait or run.
        limit: how many it may have at once. After the limit was lowered there may be more.
    """

    name: str
    in_flight: int
    limit: int

    @property
    def headroom(self) -> int:
        """How many more requests the key may send now; negative if it has more than its limit allows."""
        return self.limit - self.in_flight


def new_secret() -> str:
    """A new secret, which nobody can guess: `tl-` and 43 letters, digits, `-` and `_`."""
    return _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def digest_of(secret: str) -> str:
    """The SHA-256 digest of a secret. Secrets are random, so it needs neither salt nor many rounds; and how long a
    search for a digest takes says nothing of the secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
