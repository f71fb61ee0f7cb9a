"""The Redis server a pool lives on: what it says of itself, as far as it may be asked.

Managed servers and ACLs deny commands such as CONFIG: what could not be asked is None.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tokenlane.routing.store.pool import Pool

_TRIES = 5
_SETTINGS = ("timeout", "client-output-buffer-limit", "save")


@dataclass(frozen=True)
class ServerFacts:
    """What a server says. `info`: the fields of INFO. `settings`: those of CONFIG that were given.

    `round_trip_ms`: the quickest of a few. `ahead_ms`: how far its clock is ahead of this host's, give or take half a
    round trip.
    """

    info: Mapping[str, str]
    settings: Mapping[str, str]
    round_trip_ms: float
    ahead_ms: float | None


async def ask_server(pool: Pool) -> ServerFacts:
    """Ask the pool's server about itself.

    Raises:
        PoolUnavailable: it does not answer.
    """
    info = await pool.commands.ask_about("INFO")
    settings: dict[str, str] = {}
    for name in _SETTINGS:
        found = await pool.commands.ask_about("CONFIG GET", name)
        settings |= _texts(found)
    round_trip_ms, ahead_ms = await _clock(pool)
    return ServerFacts(_texts(info), settings, round_trip_ms, ahead_ms)


async def _clock(pool: Pool) -> tuple[float, float | None]:
    best: tuple[float, float | None] = (float("inf"), None)
    clock = asyncio.get_running_loop().time
    for _ in range(_TRIES):
        start, here = clock(), time.time()
        told = await pool.commands.ask_about("TIME")
        took = clock() - start
        if 1000 * took < best[0]:
            ahead = 1000 * (told[0] + told[1] / 1e6 - here - took / 2) if isinstance(told, tuple) else None
            best = (1000 * took, ahead)
    return best


def _texts(found: object) -> dict[str, str]:
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
