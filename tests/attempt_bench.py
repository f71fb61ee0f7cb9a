"""For tests of a single attempt: a lane with a fake pool and a fake model server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from tests.lanes import chats
from tests.waiting import until
from tests.workshop import FakeProvider

from tokenlane.config.host.pool_key_files import KeyRing, PoolKey
from tokenlane.routing.contract.envelope import Envelope, Needs
from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.contract.messages import ChannelMessage, Handover, Resume, channel_message
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.routing.contract.sealing.messages import Opener
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.decide.lanes.offer import Announcement
from tokenlane.routing.decide.policy import Policy, PromptPolicy
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.hooks.functions import NO_HOOKS, Hooks
from tokenlane.routing.store.hub import Hub
from tokenlane.routing.store.keychain import Keychain
from tokenlane.routing.store.keys import Keys
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.replies.claim import ClaimedAttempt
from tokenlane.routing.support.tasks import InternalErrors, background
from tokenlane.worker.attempt.observe import log_attempt
from tokenlane.worker.attempt.pipeline import run_request
from tokenlane.worker.embeddings import Embedder
from tokenlane.worker.lane.availability import Availability
from tokenlane.worker.lane.heartbeat import Heartbeat
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.model_server.readiness import Readiness
from tokenlane.worker.lane.publisher import Publisher
from tokenlane.worker.lane.running_attempts import AttemptEnded, Run, Runs
from tokenlane.worker.model_management.lane_models import LaneModels

SECRET = "xyzzy-the-prompt"
ANNOUNCEMENT = Announcement(lane="lane1", provider="fake", endpoint="http://here", models=("m1",), offer=chats(2))


class FakePool:
    """A pool with one dispatched request. `outage`: the errors of the next calls of `finish` and `requeue`, last first.
    `unseals`, `lawless`: the same for `unseal` and for reading the policy."""

    def __init__(self) -> None:
        self.keys = Keys()
        self.requests = self.policies = self.key_agreement = self
        self.keychain = Keychain(KeyRing(), "pool 'main'")
        self.key_id: str | None = None
        self.unreadable = False
        self.internal_errors = InternalErrors()
        self.id = new_id()
        self.starts = 1
        self.left_ms = 60_000
        self.cancelled = False
        self.payload = ChatRequest(id=self.id, role="r", messages=[Message(role="user", content=SECRET)]).to_wire()
        self.started_by: list[str] = []
        self.gone = False
        self.unavailable = False
        self.refused_starts = 0
        self.unseals: list[Exception] = []
        self.outage: list[Exception] = []
        self.lawless: list[Exception] = []
        self.stale = False
        self.published: list[ChannelMessage] = []
        self.endings: list[tuple[str, int, str, ChannelMessage]] = []
        self.requeued: list[tuple[int, bool]] = []
        self.causes: list[str] = []
        self.queues: list[Queue | None] = []
        self.blamed: list[str | None] = []
        self.needs = Needs(model="m1")
        self.prompt: PromptPolicy | None = None
        self.forgetful = self.spent = False
        self.forgets_as = "forgotten"
        self.forgotten: list[tuple[str, int, str]] = []
        self.log: list[str] = []
        self.rules = Policy(max_starts=3).model_copy(update={"orphan_ms": 500})

    async def start(self, request_id: str, attempt: int, worker: str) -> ClaimedAttempt | None:
        if self.unavailable:
            self.refused_starts += 1
            raise PoolUnavailable
        if self.gone:
            return None
        self.started_by.append(worker)
        envelope = Envelope(id=self.id, client="c", agent="a", role="r", key_id=self.key_id)
        return ClaimedAttempt(
            attempt,
            envelope,
            self.payload,
            "m1",
            self.starts,
            self.left_ms,
            12,
            self.cancelled,
            self.needs,
            prompt=self.prompt,
        )

    async def unseal(self, envelope: Envelope, payload: bytes) -> bytes:
        if self.unseals:
            raise self.unseals.pop()
        return payload

    async def finish(self, *args: Any, lane: str | None = None) -> str | None:
        _, _, _, ending, end, code, message = args
        self.blamed.append(lane)
        if self.outage:
            raise self.outage.pop()
        self.log.append(f"finished {self.id}")
        if self.stale:
            return None
        self.endings.append((ending, end, code, channel_message(self.opened(message))))
        return "done"

    async def requeue(
        self,
        request_id: str,
        attempt: int,
        worker: str,
        due_ms: int = 0,
        *,
        queue: Queue | None = None,
        counts: bool = True,
        alone: bool = False,
        cause: str = "",
        longest_delay_ms: int | None = None,
        span: str = "",
    ) -> str:
        if self.outage:
            raise self.outage.pop()
        if self.forgetful:
            return "lost"
        if self.spent and longest_delay_ms is not None:
            return "spent"
        self.queues.append(queue)
        self.log.append(f"requeued {self.id}")
        self.requeued.append((due_ms, counts))
        self.causes.append(cause)
        return "waiting"

    async def forget(self, request_id: str, attempt: int, worker: str) -> str:
        if self.outage:
            raise self.outage.pop()
        self.forgotten.append((request_id, attempt, worker))
        return self.forgets_as

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        self.published.extend(channel_message(self.opened(data)) for _, data in messages)

    def opened(self, data: bytes) -> bytes:
        """Open a message of the worker. Only a worker that cannot read a sealed request may send a plain message."""
        if not self.keychain.ring.keys or (self.unreadable and data.startswith(b"{")):
            return data
        opened = Opener(lambda: self.keychain.ring.keys, self.id, "answer").open(data)
        assert opened is not None
        return opened

    async def read(self) -> Policy:
        if self.lawless:
            raise self.lawless.pop()
        return self.rules


class FakeHeartbeat:
    """Records the failures and the states that a worker reports."""

    def __init__(self, availability: Availability) -> None:
        self.faults: list[str] = []
        self.availability = availability
        self.log: list[str] = []

    def report_failure(self, code: str) -> None:
        self.faults.append(code)

    async def beat(self) -> None:
        self.log.append(self.availability.state)

    def announce_soon(self) -> None:
        """Nothing has changed."""

    async def announce(self) -> None:
        self.log.append(self.availability.state)


async def nothing() -> None:
    """Describe the lane as unchanged."""


class Bench:
    """A lane with a fake pool and a fake model server, which share one log."""

    def __init__(
        self,
        provider: FakeProvider | None = None,
        *,
        abilities: Sequence[str] = ("chat", "prefill"),
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        self.pool = FakePool()
        self.availability = Availability(replace(ANNOUNCEMENT, offer=chats(2, abilities={"m1": tuple(abilities)})))
        self.heartbeat = FakeHeartbeat(self.availability)
        self.provider = provider or FakeProvider()
        self.provider.log = self.heartbeat.log = self.pool.log
        self.runs = Runs()
        pool = cast("Pool", self.pool)
        self.publisher = Publisher(pool, "worker1", "lane1")
        self.events: list[AttemptEnded] = []
        self.lane = Lane(
            pool,
            cast("Hub", None),
            "worker1",
            self.availability,
            self.provider,
            self.runs,
            self.publisher,
            cast("Heartbeat", self.heartbeat),
            cast("LaneModels", None),
            Embedder(self.provider, "fake"),
            Readiness(self.provider, self.availability, cast("Heartbeat", self.heartbeat), self.runs, nothing),
            observers=(self.events.append, log_attempt),
            hooks=hooks,
        )

    def ask(self, *turns: Message, **options: object) -> None:
        """Have the agent send a chat request with these messages and options."""
        messages = [Message(role="user", content="q"), *turns]
        asked = {"id": self.pool.id, "role": "r", "messages": messages, **options}
        self.pool.payload = ChatRequest.model_validate(asked).to_wire()

    def hand_over(self, **fields: Any) -> None:
        """Have the agent reply to the running attempt with this handover."""
        self.only_run.receive_handover(Handover(id=self.pool.id, attempt=5, **fields))

    async def run_again(self, **handover: Any) -> list[ChannelMessage]:
        """Run a request that was started before, have the agent reply with this handover, and return the messages
        published up to the end of the attempt."""
        await (await self.start_again(**handover))
        return self.pool.published

    async def start_again(self, **handover: Any) -> asyncio.Task[None]:
        """Start a request that was started before, and have the agent reply with this handover."""
        self.pool.starts = max(2, self.pool.starts)
        task = asyncio.create_task(self.run())
        await until(lambda: any(isinstance(message, Resume) for message in self.pool.published))
        self.hand_over(**handover)
        return task

    @property
    def requeued_needs(self) -> Needs:
        """The needs with which the request was requeued."""
        (queue,) = self.pool.queues
        assert queue is not None
        return queue.needs

    def seal(self) -> None:
        """Give the pool a key, with which the request is sealed."""
        key = PoolKey.new()
        self.pool.keychain.ring, self.pool.key_id = KeyRing((key,)), key.id

    async def run(self) -> None:
        """Run the request to its end."""
        async with asyncio.timeout(10), background() as tasks:
            tasks.create_task(self.publisher.run())
            await run_request(self.lane, self.pool.id, 5)

    async def run_until_held(self) -> asyncio.Task[None]:
        """Run the request until the model server holds."""
        task = asyncio.create_task(self.run())
        await until(lambda: self.provider.holding > 0)
        return task

    @property
    def only_run(self) -> Run:
        (run,) = self.runs
        return run

    @property
    def ending(self) -> tuple[str, int, str, ChannelMessage]:
        (ending,) = self.pool.endings
        return ending
