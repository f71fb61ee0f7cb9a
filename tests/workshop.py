"""For tests of the worker: a model server that does as it is told, and an agent's side of a request, done by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from tests.waiting import until

from tokenlane.config.settings.values import LaneSettings, RedisSettings
from tokenlane.producer.link.redis.sealed_requests import SealedRequests
from tokenlane.routing.contract.answers import TokenDelta, Usage
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.messages import (
    ChannelMessage,
    Completed,
    Deltas,
    Failed,
    Handover,
    Resume,
    channel_message,
)
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.routing.contract.results import ModelInfo
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.store.hub import Hub
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.support.tasks import background
from tokenlane.worker.assembly import open_lane
from tokenlane.worker.attempt.pipeline import run_request
from tokenlane.worker.lane.arq_worker import POLL_S, LaneWorker, poll
from tokenlane.worker.lane.lane import Lane

CLIENT, AGENT, ROLE = "client1", "agent1", "planner"


class FakeProvider:
    """A model server, which continues a partial answer that begins with its pieces. `log` tells what happened in which
    order; `hold_after` pieces it waits for `go`."""

    def __init__(
        self,
        pieces: Sequence[str] = ("a", "b", "c"),
        *,
        hold_after: int | None = None,
        error: Exception | None = None,
        fail_after: int = 0,
        finish: bool = True,
        slots: int = 2,
        endpoint: str = "http://localhost:1",
    ) -> None:
        self.endpoint = endpoint
        self.pieces = tuple(pieces)
        self.hold_after, self.error, self.fail_after, self.finish, self.slots = (
            hold_after,
            error,
            fail_after,
            finish,
            slots,
        )
        self.log: list[str] = []
        self.go = asyncio.Event()
        self.running = 0
        self.most_running = 0
        self.holding = 0
        self.requests: list[ChatRequest] = []
        self.resumed: list[str | None] = []

    async def chat(
        self, request: ChatRequest, model: str, resume: str | None = None
    ) -> AsyncGenerator[TokenDelta, None]:
        self.requests.append(request)
        self.resumed.append(resume)
        self.log.append(f"opened {request.id}")
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            begun = resume or ""
            for number, piece in enumerate(self.pieces):
                if begun.startswith(piece):
                    begun = begun.removeprefix(piece)
                    continue
                await self._happen(number)
                yield TokenDelta(text=piece, model=model)
            await self._happen(len(self.pieces))
            if self.finish:
                yield TokenDelta(finish_reason="stop", model=model, usage=Usage(completion_tokens=len(self.pieces)))
        finally:
            await asyncio.sleep(0)
            self.running -= 1
            self.log.append(f"closed {request.id}")

    async def _happen(self, number: int) -> None:
        if self.hold_after == number:
            self.holding += 1
            await self.go.wait()
        if self.error is not None and self.fail_after == number:
            raise self.error

    async def models(self) -> list[ModelInfo]:
        return [ModelInfo(name="m1", capabilities=("chat", "prefill"))]

    async def capacity(self) -> int:
        return self.slots

    async def aclose(self) -> None:
        self.log.append("closed")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Asker:
    """The agent's side of one request: what it received, and the rules by which it receives.

    Deltas of an older attempt or below its position are dropped, a gap is remembered, a `Resume` is answered.
    """

    def __init__(self, pool: Pool, log: list[str] | None = None) -> None:
        self.id = new_id()
        self.text: list[str] = []
        self.attempt = 0
        self.gap = False
        self.messages: list[ChannelMessage] = []
        self.ending: ChannelMessage | None = None
        self.resumes = 0
        self.lane = self.model = ""
        self.answers: Handover | None = None
        self._pool = pool
        self._sealed = SealedRequests(pool.keychain)
        self._log = log if log is not None else []
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, data: bytes) -> None:
        """Take a message of the request's delta channel."""
        opened = self._sealed.open(self.id, data)
        assert opened is not None
        message = channel_message(opened)
        self.messages.append(message)
        if message.attempt < self.attempt:
            return
        self.attempt = message.attempt
        if isinstance(message, Resume):
            self.resumes += 1
            task = asyncio.create_task(self._hand_over(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        if isinstance(message, Deltas | Completed | Failed):
            if message.deltas:
                self.lane, self.model = message.lane, message.model
            self._place(message.first, message.deltas)
        if not isinstance(message, Deltas):
            self._log.append(f"ended {self.id}")
            self.ending = message

    def _place(self, first: int, deltas: list[TokenDelta]) -> None:
        self.gap = first > len(self.text)
        if not self.gap:
            self.text.extend(delta.text for delta in deltas[len(self.text) - first :])

    async def _hand_over(self, message: Resume) -> None:
        state = self.answers or Handover(
            id=self.id,
            attempt=message.attempt,
            position=len(self.text),
            text="".join(self.text),
            tokens=sum(map(bool, self.text)),
            lane=self.lane,
            model=self.model,
        )
        answer = state.model_copy(update={"id": self.id, "attempt": message.attempt})
        sealed = self._sealed.seal(answer)
        assert sealed is not None
        await self._pool.publish([(self._pool.keys.control(message.worker), sealed)])

    async def ended(self, timeout_s: float = 15) -> ChannelMessage:
        """Wait for the request's end."""
        await until(lambda: self.ending is not None, timeout_s)
        assert self.ending is not None
        return self.ending

    async def completed(self, text: str = "abc", timeout_s: float = 15) -> Completed:
        """Wait for the end, which must be this whole answer."""
        ending = await self.ended(timeout_s)
        assert isinstance(ending, Completed), ending
        assert "".join(self.text) == text
        assert ending.end == len(self.text)
        return ending

    async def failed(self, timeout_s: float = 15) -> Failed:
        """Wait for the end, which must be a failure."""
        ending = await self.ended(timeout_s)
        assert isinstance(ending, Failed), ending
        return ending


async def ask(pool: Pool, hub: Hub, log: list[str] | None = None, *, time_to_live_ms: int = 600_000) -> Asker:
    """Subscribe to a new request's channel and submit it."""
    asker = Asker(pool, log)
    await hub.subscribe(pool.keys.deltas(asker.id), asker.take)
    request = ChatRequest(id=asker.id, role=ROLE, messages=[Message(role="user", content="hello")])
    envelope = Envelope(id=asker.id, client=CLIENT, agent=AGENT, role=ROLE, time_to_live_ms=time_to_live_ms)
    await pool.requests.submit(envelope, request.to_wire())
    return asker


@asynccontextmanager
async def serving(
    redis_url: str, provider: FakeProvider, name: str = "lane1", *, bell: bool = True, poll_s: float = POLL_S
) -> AsyncIterator[tuple[Lane, LaneWorker]]:
    """A lane and its worker, without a router; what still runs at the end is abandoned."""
    settings = LaneSettings(name, "fake")
    async with (
        open_lane(settings, RedisSettings(redis_url), provider=provider) as lane,
        background() as tasks,
    ):
        worker = LaneWorker(lane, run_request)
        if bell:
            await lane.hub.subscribe(lane.pool.keys.lane_doorbell(name), worker.on_doorbell, worker.wake)
        tasks.create_task(worker.main())
        tasks.create_task(poll(lane.pool, [worker], poll_s))
        try:
            yield lane, worker
        finally:
            await worker.abandon()
