"""A request that is served, and how to answer it step by step."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from aiohttp import web

from .engine import Engine
from .fault_script import Script
from .http.player import Speech, Stage
from .http.wire import Wire
from .log import Log, Received

__all__ = ["Visit"]


@dataclass(frozen=True)
class Visit:
    """The request, what is remembered of it, and its fate."""

    request: web.Request
    received: Received
    script: Script
    engine: Engine
    log: Log
    keeps_alive: bool

    async def perform(self, speech: Speech, first_s: float, next_s: float, *, stream: bool) -> web.StreamResponse:
        """Say it at this pace, or at the script's; without a stream, all at once when it would have ended.

        Raises:
            Broken, Cut, Silence: as `Stage.perform`.
        """
        script = self.script
        first_s = first_s if script.ttft_ms is None else script.ttft_ms / 1000
        next_s = next_s if script.itl_ms is None else script.itl_ms / 1000
        stage = Stage(
            self.engine.clock, self.received, script, speech, self._wire() if stream else None, self.log.bell.ring
        )
        with self.engine.on_stage(stage):
            response = await stage.perform(first_s, next_s)
        if response is not None:
            return response
        kind = script.content_type or "application/json"
        if script.malformed_after is not None:
            return web.Response(body=b'{"malformed": ', headers={"Content-Type": kind})
        headers = {"Content-Type": kind, **speech.headers()}
        return web.Response(body=json.dumps(speech.whole()).encode(), headers=headers)

    def say_all(self, kind: str, events: Iterable[bytes]) -> web.StreamResponse:
        """A stream of no more than these."""
        wire = self._wire()
        wire.head(200, {"Content-Type": kind})
        for data in events:
            wire.chunk(data)
        return wire.end()

    def _wire(self) -> Wire:
        wire = Wire(self.request)
        wire.keeps = wire.keeps and self.keeps_alive
        return wire
