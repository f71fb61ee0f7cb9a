"""A request to the simulator with its fault script, and the sending of its answer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from aiohttp import web

from .engine import Engine
from .fault_script import FaultScript
from .http.http_answer import HttpAnswer
from .http.player import Encoded, Player
from .request_log import Log, Received


@dataclass(frozen=True)
class Exchange:
    """A request, its entry in the log, and its fault script. `keeps_alive`: whether connections survive a stream."""

    request: web.Request
    received: Received
    script: FaultScript
    engine: Engine
    log: Log
    keeps_alive: bool

    async def perform(self, encoded: Encoded, first_s: float, next_s: float, *, stream: bool) -> web.StreamResponse:
        """Send the answer at this pace or at the script's. Without a stream, send it when a stream would end.

        Raises:
            SendError, CloseConnection, StaySilent: as for `Player.perform`.
        """
        script = self.script
        first_s = first_s if script.ttft_ms is None else script.ttft_ms / 1000
        next_s = next_s if script.itl_ms is None else script.itl_ms / 1000
        player = Player(
            self.engine.clock, self.received, script, encoded, self._wire() if stream else None, self.log.changed.notify
        )
        with self.engine.playing(player):
            response = await player.perform(first_s, next_s)
        if response is not None:
            return response
        kind = script.content_type or "application/json"
        if script.malformed_after is not None:
            return web.Response(body=b'{"malformed": ', headers={"Content-Type": kind})
        headers = {"Content-Type": kind, **encoded.headers()}
        return web.Response(body=json.dumps(encoded.unstreamed_body()).encode(), headers=headers)

    def send_events(self, kind: str, events: Iterable[bytes]) -> web.StreamResponse:
        """Send a stream with these events."""
        wire = self._wire()
        wire.head(200, {"Content-Type": kind})
        for data in events:
            wire.chunk(data)
        return wire.end()

    def _wire(self) -> HttpAnswer:
        wire = HttpAnswer(self.request)
        wire.keeps = wire.keeps and self.keeps_alive
        return wire
