"""Reads and writes the API keys of a pool in Redis, which holds only the digests of their secrets."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, ValidationError

from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.store.keys import Keys
from tokenlane.routing.store.replies.values import Reply, as_bytes, as_int, as_list, as_text
from tokenlane.routing.store.scripts import Scripts

from .api_key import ApiKey, ApiKeyTable, QuotaUse, digest_of, new_secret


class ApiKeyExists(LlmError):
    """The pool has an API key with this name: choose another name, or revoke that key first.

    A secret is shown only once, when its key is added. If it is lost, `tokenlane keys revoke NAME` and add the key
    again.
    """

    code = "api_key_exists"


class _Stored(ApiKey):
    """An API key as Redis holds it."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class ApiKeys:
    """The API keys of one pool."""

    def __init__(self, scripts: Scripts, keys: Keys) -> None:
        self._scripts = scripts
        self._keys = keys

    async def add(self, key: ApiKey) -> str:
        """Add a key and return its secret, which nothing else knows.

        Raises:
            ApiKeyExists: the pool has a key with this name.
        """
        secret = new_secret()
        stored = _Stored(**key.model_dump(), sha256=digest_of(secret))
        document = stored.model_dump_json(exclude_none=True)
        if as_int(await self._scripts.ask("HSETNX", self._keys.api_keys, key.name, document)) == 0:
            raise ApiKeyExists(
                f"Pool {self._keys.pool!r} has an API key {key.name!r}: choose another name, or revoke that key first "
                f"with `tokenlane keys revoke {key.name}`."
            )
        return secret

    async def revoke(self, name: str) -> bool:
        """Delete a key; return False if there is none with this name. Its requests that wait or run go on."""
        return as_int(await self._scripts.ask("HDEL", self._keys.api_keys, name)) == 1

    async def read(self) -> ApiKeyTable:
        """Read all keys at one moment."""
        return _parse(as_list(await self._scripts.ask("HGETALL", self._keys.api_keys)))

    async def quotas(self, table: ApiKeyTable) -> tuple[QuotaUse, ...]:
        """What the keys in a table that have a limit use of it now, sorted by name."""
        limits = {key.name: key.in_flight for key in table.listed if key.in_flight is not None}
        if not limits:
            return ()
        counts = as_list(await self._scripts.run("count_quotas", *limits))
        return tuple(QuotaUse(name, as_int(count), limits[name]) for name, count in zip(limits, counts, strict=True))


def _parse(fields: Sequence[Reply]) -> ApiKeyTable:
    keys, unreadable = dict[str, ApiKey](), list[str]()
    for name, document in zip(fields[::2], fields[1::2], strict=True):
        try:
            stored = _Stored.model_validate_json(as_bytes(document))
        except ValidationError:
            unreadable.append(as_text(name))
            continue
        if stored.name == as_text(name):
            keys[stored.sha256] = ApiKey(**stored.model_dump(exclude={"sha256"}))
        else:
            unreadable.append(as_text(name))  # `revoke` must find every key that is accepted
    return ApiKeyTable(keys, tuple(sorted(unreadable)))
