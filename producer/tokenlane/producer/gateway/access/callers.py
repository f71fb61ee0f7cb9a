"""Decides who may ask: holders of API keys; and programs of this host, while the pool has no keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from starlette.requests import Request

from tokenlane.producer.gateway.failures import Refused
from tokenlane.routing.contract.envelope import Quota
from tokenlane.routing.store.access.api_key import ApiKey

from .caller import Caller, session_of

WITHOUT_KEY = "gateway"
"""The agent of callers without an API key."""
_NAMES_OF_THIS_HOST = re.compile(
    r"(?:[^.]*|[^/]+\.localhost|[0-9]{1,3}(?:\.[0-9]{1,3}){3}|\[[0-9a-f:.]+\])(?::[0-9]*)?", re.I
)
"""What follows `Host:`. Names with a dot may be of any web site, which can let them point to this host."""
_OF_PROXIES = ("forwarded", "x-forwarded-", "via", "x-real-ip")
"""What the names of headers begin with that a proxy adds, in lower case."""


class Keys(Protocol):
    """The API keys of a pool, as `KnownApiKeys` has them."""

    async def are_used(self) -> bool: ...

    async def find(self, secret: str) -> ApiKey | None: ...


class Callers:
    """Tells who made a request.

    Args:
        keys: the API keys of the pool.
        this_host_is_trusted: whether only programs of this host reach the gateway. They need no key while the pool
            has none.
    """

    def __init__(self, keys: Keys, *, this_host_is_trusted: bool) -> None:
        self._keys = keys
        self._this_host_is_trusted = this_host_is_trusted

    async def caller_of(self, request: Request) -> Caller:
        """Who made the request.

        Raises:
            Refused: the API key is missing or wrong, or a page in a browser asks without one.
            PoolUnavailable: the pool does not say which keys it has.
        """
        headers = request.headers
        if await self._keys.are_used():
            return _caller(await self._key(headers), session_of(headers))
        if not self._this_host_is_trusted:
            raise Refused(
                401,
                "no_api_keys",
                "The pool has no API keys, and this gateway listens for other hosts: add a key with "
                "`tokenlane keys add NAME`.",
            )
        _refuse_browsers_and_proxies(headers)
        return Caller(WITHOUT_KEY, conversation=session_of(headers))

    async def _key(self, headers: Mapping[str, str]) -> ApiKey:
        secret = _secret_in(headers)
        if not secret:
            raise Refused(
                401,
                "missing_api_key",
                "This gateway asks for an API key: send it as `Authorization: Bearer KEY`, or as `x-api-key`. "
                "`tokenlane keys add NAME` makes one.",
            )
        if (key := await self._keys.find(secret)) is None:
            raise Refused(
                401,
                "invalid_api_key",
                "The API key is unknown, was revoked or has expired: `tokenlane keys ls` lists the pool's keys.",
            )
        return key


def _caller(key: ApiKey, conversation: str | None) -> Caller:
    quota = None if key.in_flight is None else Quota(name=key.name, in_flight=key.in_flight)
    return Caller(key.agent, key.role, key.priority, conversation, quota)


def _secret_in(headers: Mapping[str, str]) -> str:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()


def _refuse_browsers_and_proxies(headers: Mapping[str, str]) -> None:
    """Refuse a page that any web site shows in a browser of this host, and a proxy, whose visitors are on other hosts.

    Raises:
        Refused: the request comes from one of them.
    """
    if "origin" in headers or "sec-fetch-site" in headers:
        raise Refused(
            403, "browser_refused", "Pages in a browser need an API key: add one with `tokenlane keys add NAME`."
        )
    if not _NAMES_OF_THIS_HOST.fullmatch(headers.get("host", "")):  # a page whose name points here sends no `Origin`
        raise Refused(
            403,
            "host_refused",
            "Without an API key this gateway answers by the names of this host only, such as 127.0.0.1 and localhost: "
            "use one of them, or add a key with `tokenlane keys add NAME`.",
        )
    if any(name.lower().startswith(_OF_PROXIES) for name in headers):
        raise Refused(
            403, "proxy_refused", "Behind a proxy, callers need an API key: add one with `tokenlane keys add NAME`."
        )
