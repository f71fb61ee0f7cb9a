"""Asks one line of a batch, again where asking again helps."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass

from starlette.types import ASGIApp

from tokenlane.producer.gateway.access.caller import Caller

from .batch import Batch
from .in_process import Reply, post
from .lines import Line

_TRIES = 3
"""How often a line is asked that model servers fail to answer. While the pool is full or away, tries do not count."""
_REFUSED_BEFORE = ("queue_full", "pool_unavailable")
"""The errors before which the pool has not accepted the request, so that its key is still good."""
_LOST = ("request_lost", "entry_deleted", "cancelled")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_LONGEST_MS = 86_400_000


@dataclass(frozen=True)
class Asker:
    """Asks the lines of a batch.

    Args:
        app: answers requests of this process.
        is_resumed: whether a gateway that is gone may have asked these lines.
    """

    app: ASGIApp
    batch: Batch
    is_resumed: bool

    async def ask(self, number: int, line: Line) -> Reply:
        """Return the response to a line: the first one that asking again would not change."""
        failures, tries, pause_s = 0, 1, _FIRST_PAUSE_S
        while True:
            reply = await self._post(line, {"idempotency-key": f"{self.batch.id}:{number}:{tries}"})
            if reply.status == 409 and reply.code == "duplicate":
                # An earlier gateway asked this. Its worker may still have the answer; if not, the line is asked anew.
                ended = await self._post(line, {"x-tokenlane-request": reply.headers.get("x-tokenlane-request", "")})
                if ended.status == 200:
                    return ended
                tries += 1
                continue
            is_lost = reply.code in _LOST and (self.is_resumed or reply.code != "cancelled")
            if reply.headers.get("x-should-retry") != "true" and not is_lost:
                return reply
            if reply.status not in (429, 503):
                failures += 1
                if failures == _TRIES:
                    return reply
            if reply.code not in _REFUSED_BEFORE:
                tries += 1
            await asyncio.sleep(max(pause_s, _retry_after_s(reply)))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _post(self, line: Line, headers: dict[str, str]) -> Reply:
        left_ms = int((self.batch.expires_at - time.time()) * 1000)
        headers["x-tokenlane-time-to-live-ms"] = str(min(max(1, left_ms), _LONGEST_MS))
        caller = Caller(self.batch.agent, self.batch.role, "low", quota=self.batch.quota)
        return await post(self.app, self.batch.endpoint, line.body, headers, caller)


def _retry_after_s(reply: Reply) -> float:
    given = reply.headers.get("retry-after", "")
    return min(float(given), _LONGEST_PAUSE_S) if re.fullmatch("[0-9]{1,6}", given) else 0
