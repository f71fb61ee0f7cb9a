"""The API keys as a gateway knows them: not older than a few seconds, and kept while the pool's server is away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tokenlane.config.cli.plain_text import one_line

from .api_key import ApiKey, ApiKeyTable
from .api_keys import ApiKeys
from .remembered import Remembered

logger = logging.getLogger(__name__)

_FOR_NEW_KEYS_S = 0.25


class KnownApiKeys:
    """A pool's API keys, as a gateway asks for them at each request.

    A revoked key is accepted for at most `FRESH_S` more, and a new key is known within a quarter of a second. If the
    pool's server does not answer, the keys that were known stay valid for `KEPT_S`.

    All methods raise `PoolUnavailable` if the server does not answer and the keys were last read longer ago.

    Args:
        now: the time, in seconds since the epoch, by which keys expire.
    """

    def __init__(self, api_keys: ApiKeys, now: Callable[[], float] = time.time) -> None:
        self._table = Remembered(api_keys.read)
        self._now = now
        self._reported: tuple[str, ...] = ()

    async def are_used(self) -> bool:
        """Whether the pool has API keys, so that everybody who asks needs one."""
        return bool(await self._table.get())

    async def find(self, secret: str) -> ApiKey | None:
        """The key with this secret; None if there is none, if it was revoked, or if it has expired."""
        table = await self._table.get()
        if (key := table.find(secret, self._now())) is None:
            table = await self._table.get(_FOR_NEW_KEYS_S)
            key = table.find(secret, self._now())
        self._report(table)
        return key

    def _report(self, table: ApiKeyTable) -> None:
        """Log once which keys are not accepted because this version cannot read them."""
        if table.unreadable and table.unreadable != self._reported:
            names = one_line(", ".join(table.unreadable))
            logger.warning(
                "this version cannot read these API keys of the pool, and refuses them: %s. Update tokenlane here, or "
                "revoke them and add them again",
                names,
            )
        self._reported = table.unreadable
