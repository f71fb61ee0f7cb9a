"""An answer of a real model server breaks off at a chosen place, and a lane with another server continues it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import JsonValue
from tests.fake_server import answer_of, ask
from tests.integration.lanes import lane_of

from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import Client
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import connect
from tokenlane.worker.providers import default_registry

__all__ = ["CUTS", "MOST_TOKENS", "QUESTION", "Cut", "check_cut"]

QUESTION = "Repeat: café crème, naïve, 你好"
"""The built-in model answers with words of several tokens, and with characters of several bytes."""
MOST_TOKENS = 24
_ROUTE = RolePolicy(route=(Candidate(lane="gpu0"), Candidate(lane="gpu1")))
_TEXT = re.compile(rb'"content": ?"[^"]')


@dataclass(frozen=True)
class Cut:
    """Where a stream is cut: after this many tokens, or within the next character of several bytes that follows."""

    after: int
    in_character: bool = False

    def find(self, sent: bytes) -> int | None:
        """The number of bytes that the client gets, or None while the place is not yet reached."""
        events = list(_TEXT.finditer(sent))
        if len(events) < self.after or (end := sent.find(b"\n\n", events[self.after - 1].start())) < 0:
            return None
        if not self.in_character:
            return end + 2
        character = re.search(rb"[\x80-\xff]", sent[end:])
        return character and end + character.end()


CUTS = (Cut(1), Cut(2), Cut(5), Cut(11), Cut(2, in_character=True))
"""Within words, after a comma and a space, and within a character."""


class _CuttingProxy:
    """A proxy in front of a model server, which closes the connection of one answer at the place `cut`."""

    def __init__(self, port: int) -> None:
        self.cut: Cut | None = None
        self._port = port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        answers, server = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            async with asyncio.TaskGroup() as tasks:
                asking = tasks.create_task(_pass_on(reader, server))
                await self._answer(answers, writer)
                asking.cancel()
        finally:
            server.close()
            writer.close()

    async def _answer(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = b""
        with suppress(ConnectionError):
            while data := await answers.read(65536):
                if self.cut is None:
                    writer.write(data)
                    continue
                end, before = self.cut.find(sent + data), len(sent)
                sent += data
                if end is not None:
                    writer.write(sent[before:end])
                    self.cut = None
                    return
                writer.write(data)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)


@asynccontextmanager
async def _cutting(endpoint: str) -> AsyncIterator[tuple[_CuttingProxy, str]]:
    proxy = _CuttingProxy(urlsplit(endpoint).port or 0)
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with suppress(asyncio.CancelledError):  # asyncio would log it
            await proxy.serve(reader, writer)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield proxy, f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def check_cut(
    cut: Cut,
    redis_url: str,
    provider: str,
    endpoints: tuple[str, str],
    model: str,
    extra: dict[str, JsonValue] | None = None,
) -> None:
    """Assert that an answer whose stream is cut is the part before the cut, and what the second server gives when it is
    asked directly to continue that part.

    Args:
        endpoints: of the server whose stream is cut, and of the server that continues the answer.
        extra: further fields of the request to the servers.
    """
    first, second = endpoints
    async with (
        connect(redis_url) as pool,
        _cutting(first) as (proxy, through_proxy),
        lane_of(redis_url, LaneSettings("gpu0", provider, through_proxy)),
        lane_of(redis_url, LaneSettings("gpu1", provider, second)),
        default_registry().create(LaneSettings("direct", provider, second)) as direct,
        Client(redis_url) as client,
    ):
        await pool.policies.write(Policy(roles={"planner": _ROUTE}))
        proxy.cut = cut
        asking = client.chat(QUESTION, role="planner", max_tokens=MOST_TOKENS, temperature=0, extra=extra)
        async with asking as stream:
            deltas = [delta async for delta in stream]
            answer = await stream.answer()
        before = [delta.text for delta in deltas if delta.lane == "gpu0"]
        part, left = "".join(before), MOST_TOKENS - sum(map(bool, before))
        rest = await answer_of(direct, ask(QUESTION, max_tokens=left, temperature=0, extra=extra), model, part)
    assert part
    assert rest
    assert answer.text == part + rest
    assert [delta.position for delta in deltas] == list(range(len(deltas)))
    assert (answer.lane, answer.usage.attempts) == ("gpu1", 2)
