"""A stand-in for routers and workers: gives every request that waits to the test, which then plays the worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.lanes import chats

from tokenlane.routing.contract.answers import FinishReason, TokenDelta, Usage
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.errors import LlmError, PoolUnavailable
from tokenlane.routing.contract.messages import (
    Cancel,
    ChannelMessage,
    Completed,
    Deltas,
    Failed,
    Handover,
    Replay,
    Resume,
    control_message,
)
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.sealing.messages import Sealer
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.decide.lanes.offer import Announcement, Running
from tokenlane.routing.decide.role_fairness import fair_order
from tokenlane.routing.store.hub import open_hub
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.request_life import Ending
from tokenlane.routing.support.tasks import background

__all__ = ["Run", "StandIn", "stand_in"]

LANE, MODEL = "lane1", "m1"


class Run:
    """One attempt. `sent` is what was said; what is said with `lost=True` reaches nobody but is remembered.

    `forgetful`: nothing is published again. `has_evicted_deltas`: only the end is.
    """

    def __init__(self, pool: Pool, worker: str, attempt: int, envelope: Envelope, payload: bytes) -> None:
        self.id = envelope.id
        self.attempt = attempt
        self.envelope = envelope
        self.request = ChatRequest.model_validate_json(pool.keychain.unseal(envelope, payload))
        self.worker = worker
        self.first = 0
        self.sent: list[TokenDelta] = []
        self.ending: bytes | None = None
        self.forgetful = self.has_evicted_deltas = False
        self.cancelled = asyncio.Event()
        self.handover: asyncio.Future[Handover] = asyncio.get_running_loop().create_future()
        self._pool = pool
        key = pool.keychain.key
        self._seal = Sealer(key, self.id, "answer").seal if key is not None else bytes

    @property
    def end(self) -> int:
        return self.first + len(self.sent)

    async def say(self, *texts: str, lost: bool = False) -> None:
        """Publish texts, as one message."""
        await self.send([TokenDelta(text=text) for text in texts], lost=lost)

    async def send(self, deltas: Sequence[TokenDelta], *, lost: bool = False) -> None:
        """Publish deltas, as one message."""
        message = self._deltas(self.end, deltas)
        self.sent.extend(deltas)
        if not lost:
            await self.publish(message)

    async def complete(self, *texts: str, finish_reason: FinishReason = "stop", lost: bool = False) -> bool:
        """Finish, the last texts riding in the ending."""
        first, deltas = self.end, [TokenDelta(text=text) for text in texts]
        self.sent.extend([*deltas, TokenDelta(finish_reason=finish_reason)])
        usage = Usage(prompt_tokens=3, completion_tokens=self.end)
        message = Completed(
            attempt=self.attempt,
            worker=self.worker,
            lane=LANE,
            model=MODEL,
            first=first,
            end=self.end,
            usage=usage,
            deltas=self.sent[first - self.first :],
        )
        return await self._finish("completed", "", message, lost=lost)

    async def fail(self, error: LlmError, *, lost: bool = False) -> bool:
        """Finish with an error."""
        message = Failed(
            attempt=self.attempt, worker=self.worker, lane=LANE, first=self.end, end=self.end, error=error.report()
        )
        return await self._finish("failed", error.code, message, lost=lost)

    async def ask_resume(self) -> Handover:
        """Ask the agent how far it has got."""
        while not self.handover.done():
            await self.publish(Resume(attempt=self.attempt, worker=self.worker))
            await asyncio.wait({self.handover}, timeout=0.2)
        return self.handover.result()

    async def publish(self, message: ChannelMessage) -> None:
        await self._pool.publish([(self._pool.keys.deltas(self.id), self._seal(message.to_wire()))])

    def running(self) -> Running:
        of = self.envelope
        return Running(self.id, self.attempt, of.client, of.agent, of.role, of.kind, of.time_to_live_ms)

    def replayed(self, after: int) -> list[bytes]:
        """What is published again for an agent that lacks everything from `after` on."""
        if self.forgetful:
            return []
        rest = self.sent[after - self.first :]
        has_rest = rest and not self.has_evicted_deltas
        again = [self._seal(self._deltas(after, rest).to_wire())] if has_rest else []
        return again if self.ending is None else [*again, self.ending]

    def _deltas(self, first: int, deltas: Sequence[TokenDelta]) -> Deltas:
        return Deltas(
            attempt=self.attempt, worker=self.worker, lane=LANE, model=MODEL, first=first, deltas=list(deltas)
        )

    async def _finish(self, ending: Ending, code: str, message: Completed | Failed, *, lost: bool) -> bool:
        self.ending = self._seal(message.to_wire())
        told = b"{}" if lost else self.ending
        done = await self._pool.requests.finish(self.id, self.attempt, self.worker, ending, self.end, code, told)
        return done is not None


class StandIn:
    """One lane and its worker. Get one with `stand_in`."""

    def __init__(self, pool: Pool, *, name: str = "worker1", lane: str = LANE, limit: int = 1000) -> None:
        self.name = name
        self.runs: dict[tuple[str, int], Run] = {}
        self.replays: list[Replay] = []
        self.beating = True
        self._pool = pool
        self._lane = Announcement(
            lane=lane, provider="sim", endpoint="http://gpu1", models=(MODEL, "m2"), offer=chats(limit)
        )
        self._started: asyncio.Queue[Run] = asyncio.Queue()
        self._words: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    async def next_run(self) -> Run:
        """The next request that came."""
        async with asyncio.timeout(20):
            return await self._started.get()

    async def route(self) -> None:
        """Take in all that waits, for ever."""
        while True:
            try:
                await self._beat()
                await self._take_in()
            except PoolUnavailable:
                pass
            await asyncio.sleep(0.02)

    async def speak(self) -> None:
        """Publish replays, for ever."""
        while True:
            word = await self._words.get()
            try:
                await self._pool.publish([word])
            except PoolUnavailable:
                pass

    def hear(self, data: bytes) -> None:
        """A message on the control channel."""
        message = control_message(data)
        run = self.runs.get((message.id, message.attempt))
        match message:
            case Replay():
                self.replays.append(message)
                for again in run.replayed(message.after) if run else []:
                    self._words.put_nowait((self._pool.keys.deltas(message.id), again))
            case Handover():
                if run is not None and not run.handover.done():
                    run.handover.set_result(message)
            case Cancel():
                if run is not None:
                    run.cancelled.set()

    async def _beat(self) -> None:
        if self.beating:
            held = [run for run in self.runs.values() if run.ending is None]
            beat = await self._pool.beats.renew(
                self.name, self._lane, [run.running() for run in held], accepts_new_work=True
            )
            for run, hold in zip(held, beat.outcomes, strict=True):
                if hold != "mine":
                    run.cancelled.set()
            await self._pool.beats.sweep(f"host/{self.name}")

    async def _take_in(self) -> None:
        survey = await self._pool.survey()
        for head in fair_order(survey.heads, {}, self._lane.lane):
            if head.queue.needs.model not in (None, *self._lane.models):
                continue
            attempt = await self._pool.requests.dispatch(head, self._lane.lane, MODEL, new_id())
            if attempt is None:
                continue
            started = await self._pool.requests.start(head.id, attempt, self.name)
            if started is not None:
                run = Run(self._pool, self.name, attempt, started.envelope, started.payload)
                self.runs[run.id, attempt] = run
                self._started.put_nowait(run)


@asynccontextmanager
async def stand_in(pool: Pool, name: str = "worker1", lane: str = LANE) -> AsyncIterator[StandIn]:
    """A lane that takes in whatever waits in the pool and its model can answer."""
    worker = StandIn(pool, name=name, lane=lane)
    async with open_hub(pool) as hub, background() as tasks:
        await hub.subscribe(pool.keys.control(name), worker.hear)
        tasks.create_task(worker.speak())
        tasks.create_task(worker.route())
        yield worker
