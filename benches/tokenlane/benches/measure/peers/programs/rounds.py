"""Runs the streams of a client, and measures when each token arrived.

The model server writes into each token when the request arrived and when the token was sent. So the times are those
that the request took to the model server and that the tokens took back, without the time within the model server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TypeAlias, TypedDict

Arrivals: TypeAlias = list[tuple[int, str]]
"""The arrival time of each token, in nanoseconds of the monotonic clock, and its text."""

Ask: TypeAlias = Callable[[int, Arrivals], Coroutine[None, None, None]]
"""Asks for an answer of so many tokens, and appends each token when it arrives."""

_SHORTEST_WAIT_S = 0.05


class Times(TypedDict):
    """The times of one round, in milliseconds and in seconds. `failed`: why answers failed, one line for each."""

    first_ms: list[float]
    delta_ms: list[float]
    floor_ms: list[float]
    took_s: float
    failed: list[str]


@dataclass(frozen=True)
class Watched:
    """One watched answer: its text, its longest pause in seconds, and the error that ended it, if one did.

    `silent`: nothing arrived for the whole patience, and the answer was given up.
    """

    text: str
    pause_s: float
    error: str | None
    silent: bool


def stamps(text: str) -> tuple[int, int]:
    """Return when the request arrived and when the token was sent, from the token's text."""
    request_arrived, token_sent = text.split()
    return int(request_arrived), int(token_sent)


async def load(
    ask: Ask,
    streams: int,
    answers: int,
    tokens: int,
    spread_s: float,
    floor: Callable[[], Awaitable[float]] | None = None,
) -> Times:
    """Run `streams` streams at once, and ask `answers` questions one after another in each. The starts of the streams
    are spread evenly over `spread_s` seconds.

    Args:
        floor: measures the floor (see `floor.py`) before each question, if there is only one stream.
    """
    times = Times(first_ms=[], delta_ms=[], floor_ms=[], took_s=0, failed=[])

    async def answer() -> None:
        arrivals: Arrivals = []
        asked = time.monotonic_ns()
        await ask(tokens, arrivals)
        if len(arrivals) != tokens:
            raise ValueError(f"{len(arrivals)} tokens of {tokens} arrived")
        (arrived, text), *later = arrivals
        request_arrived, token_sent = stamps(text)
        times["first_ms"].append((request_arrived - asked + arrived - token_sent) / 1e6)
        times["delta_ms"].extend((arrived - stamps(text)[1]) / 1e6 for arrived, text in later)

    async def stream(number: int) -> None:
        await asyncio.sleep(spread_s * number / streams)
        for _ in range(answers):
            if floor is not None and streams == 1:
                times["floor_ms"].append(await floor())
            try:
                await answer()
            except Exception as error:  # any kind: the answers come through foreign libraries
                times["failed"].append(_described(error))

    begun = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(streams):
            tasks.create_task(stream(number))
    times["took_s"] = time.monotonic() - begun
    return times


async def watch(ask: Ask, streams: int, tokens: int, patience_s: float) -> list[dict[str, object]]:
    """Ask one question in each of `streams` streams at once. Returns the fields of a `Watched` for each answer."""
    async with asyncio.TaskGroup() as tasks:
        watching = [tasks.create_task(_watched(ask, tokens, patience_s)) for _ in range(streams)]
    return [each.result() for each in watching]


async def _watched(ask: Ask, tokens: int, patience_s: float) -> dict[str, object]:
    arrivals: Arrivals = []
    last_ns = time.monotonic_ns()
    asking = asyncio.create_task(ask(tokens, arrivals))
    try:
        while not asking.done():
            if arrivals:
                last_ns = arrivals[-1][0]
            left_s = patience_s - (time.monotonic_ns() - last_ns) / 1e9
            if left_s <= 0:
                break
            await asyncio.wait([asking], timeout=max(left_s, _SHORTEST_WAIT_S))
        silent = not asking.done()
    finally:
        asking.cancel()
        (ended,) = await asyncio.gather(asking, return_exceptions=True)
    pauses_s = [(later - earlier) / 1e9 for (earlier, _), (later, _) in pairwise(arrivals)]
    watched = Watched(
        text="".join(text for _, text in arrivals),
        pause_s=max(pauses_s, default=0.0),
        error=_described(ended) if isinstance(ended, Exception) else None,
        silent=silent,
    )
    return asdict(watched)


def _described(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
