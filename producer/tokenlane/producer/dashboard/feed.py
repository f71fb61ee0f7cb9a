"""Follows the pool once for all viewers of the page, and gives each of them the newest view as a server-sent event."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace

from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.live.follow import Look, follow

from .documents import HistoryDocument, LookDocument, history_document, look_document

logger = logging.getLogger(__name__)

MOST_VIEWERS = 64


class Feed:
    """The newest look at a pool. Start `run()` as a background task.

    `viewers`: how many viewers follow now. Without any, requests are not read from the pool, and nothing is encoded.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.viewers = 0
        self.newest = Look()
        self._event: bytes | None = None
        self._count = 0
        self._changed = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """Whether the newest look at the pool succeeded."""
        return self.newest.view is not None and not self.newest.outage

    async def run(self) -> None:
        """Follow the pool until cancelled. If an unexpected error ends this, viewers learn that the figures are old."""
        try:
            async with aclosing(follow(self.pool, with_requests=lambda: self.viewers > 0)) as looks:
                async for look in looks:
                    self._log_outage(look)
                    self._publish(look)
        except Exception:
            self._publish(replace(self.newest, outage="The dashboard has an internal error; its log says more."))
            raise

    def _log_outage(self, look: Look) -> None:
        """Log the begin and the end of each outage."""
        if look.outage and not self.newest.outage:
            logger.warning("the page shows old figures until the pool can be read: %s", look.outage)
        elif self.newest.outage and not look.outage:
            logger.info("%s answers again", self.pool)

    def _publish(self, look: Look) -> None:
        self.newest, self._event, self._count = look, None, self._count + 1
        self._changed.set()
        self._changed = asyncio.Event()

    @contextmanager
    def viewer(self) -> Iterator[None]:
        """Count a viewer while the block runs."""
        self.viewers += 1
        try:
            yield
        finally:
            self.viewers -= 1

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield what the charts need of the last two minutes, and then each look.

        Only the newest look is kept: a viewer that takes long for one misses those that came meanwhile.
        """
        yield _event("history", history_document(self.newest))
        seen = 0
        while True:
            while seen == self._count:
                await self._changed.wait()
            seen = self._count
            yield self._newest_event()

    def _newest_event(self) -> bytes:
        """The newest look as an event, which is encoded once for all viewers."""
        if self._event is None:
            self._event = _event("look", look_document(self.newest))
        return self._event


def _event(kind: str, document: LookDocument | HistoryDocument) -> bytes:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))  # without line ends, as JSON escapes them
    return f"event: {kind}\ndata: {text}\n\n".encode(errors="replace")
