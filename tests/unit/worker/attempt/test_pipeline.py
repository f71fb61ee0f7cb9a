from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.lanes import chats
from tests.waiting import until
from tests.workshop import FakeProvider

from tokenlane.routing import telemetry
from tokenlane.routing.contract.answers import TokenDelta, ToolCallDelta
from tokenlane.routing.contract.envelope import Envelope, Needs
from tokenlane.routing.contract.errors import (
    BadRequest,
    Interrupted,
    NoToolCall,
    PoolKeyMismatch,
    PoolUnavailable,
    ProviderDown,
    QueueFull,
    RateLimited,
    RequestLost,
)
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
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.decide.lanes.offer import Announcement
from tokenlane.routing.decide.lanes.state import LaneState
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.store.hub import Hub
from tokenlane.routing.store.keys import Keys
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.request_life import ClaimedAttempt
from tokenlane.routing.support.tasks import InternalErrors, background
from tokenlane.worker.attempt.observe import AttemptTotals, log_attempt
from tokenlane.worker.attempt.pipeline import run_request
from tokenlane.worker.embeddings import Embedder
from tokenlane.worker.lane.availability import Availability
from tokenlane.worker.lane.heartbeat import Heartbeat
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.publisher import Publisher
from tokenlane.worker.lane.readiness import Readiness
from tokenlane.worker.lane.running_attempts import AttemptEnded, Run, Runs
from tokenlane.worker.lane.timings import Timings
from tokenlane.worker.model_management.lane_models import LaneModels

SECRET = "xyzzy-the-prompt"
ANNOUNCEMENT = Announcement(lane="lane1", provider="fake", endpoint="http://here", models=("m1",), offer=chats(2))


class FakePool:
    """A pool with one dispatched request. `outage`: how the next calls of `finish` and `requeue` fail, the last first;
    `unseals`, `lawless`: the same of `unseal`, and of reading the policy."""

    def __init__(self) -> None:
        self.keys = Keys()
        self.requests = self.policies = self.key_agreement = self
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
        self.queues: list[Queue | None] = []
        self.blamed: list[str | None] = []
        self.needs = Needs(model="m1")
        self.forgetful = False
        self.log: list[str] = []
        self.rules = Policy(max_starts=3).model_copy(update={"orphan_ms": 500})

    async def start(self, request_id: str, attempt: int, worker: str) -> ClaimedAttempt | None:
        if self.unavailable:
            self.refused_starts += 1
            raise PoolUnavailable
        if self.gone:
            return None
        self.started_by.append(worker)
        envelope = Envelope(id=self.id, client="c", agent="a", role="r")
        return ClaimedAttempt(
            attempt, envelope, self.payload, "m1", self.starts, self.left_ms, 12, self.cancelled, self.needs
        )

    async def unseal(self, envelope: Envelope, payload: bytes) -> bytes:
        if self.unseals:
            raise self.unseals.pop()
        return payload

    async def finish(self, *args: Any, lane: str | None = None) -> bool:
        _, _, _, ending, end, code, message = args
        self.blamed.append(lane)
        if self.outage:
            raise self.outage.pop()
        self.log.append(f"finished {self.id}")
        if self.stale:
            return False
        self.endings.append((ending, end, code, channel_message(message)))
        return True

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
    ) -> str:
        if self.outage:
            raise self.outage.pop()
        if self.forgetful:
            return "lost"
        self.queues.append(queue)
        self.log.append(f"requeued {self.id}")
        self.requeued.append((due_ms, counts))
        return "waiting"

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        self.published.extend(channel_message(data) for _, data in messages)

    async def read(self) -> Policy:
        if self.lawless:
            raise self.lawless.pop()
        return self.rules


class FakeHeartbeat:
    """Remembers what a worker says of itself."""

    def __init__(self, availability: Availability) -> None:
        self.faults: list[str] = []
        self.availability = availability
        self.log: list[str] = []

    def report_failure(self, code: str) -> None:
        self.faults.append(code)

    async def beat(self) -> None:
        self.log.append(self.availability.state)


async def nothing() -> None:
    """Has nothing new to say."""


class Bench:
    """A lane with a fake pool and a fake model server, which share one log."""

    def __init__(self, provider: FakeProvider | None = None) -> None:
        self.pool = FakePool()
        self.availability = Availability(ANNOUNCEMENT)
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
        )

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


@pytest.mark.parametrize("others_may", [True, False])
async def test_a_key_the_worker_lacks(others_may: bool) -> None:
    """What another worker may open goes back, and no more is taken; what none can fails, and work goes on. The pool is
    asked until it says which it is."""
    bench = Bench()
    bench.pool.unseals = [PoolKeyMismatch("lacking", retryable=others_may), PoolUnavailable("away")]
    await bench.run()
    assert (bench.availability.state is LaneState.DRAINING) == others_may
    assert bench.pool.requeued == [(0, False)] * others_may
    assert [code for _, _, code, _ in bench.pool.endings] == ([] if others_may else [PoolKeyMismatch.code])


async def test_a_whole_answer_completes_the_request() -> None:
    """All pieces, the end position and the usage arrive, and the stream is closed before the request is finished."""
    bench = Bench()
    await bench.run()
    ending, end, code, message = bench.ending
    assert (ending, end, code) == ("completed", 4, "")
    assert isinstance(message, Completed)
    pieces = [m for m in [*bench.pool.published, message] if isinstance(m, Deltas | Completed)]
    assert "".join(delta.text for piece in pieces for delta in piece.deltas) == "abc"
    assert (message.usage.queue_ms, message.usage.completion_tokens, message.usage.attempts) == (12, 3, 1)
    assert b'"usage":null' not in message.to_wire()
    assert all(delta.usage is None for delta in message.deltas)
    assert 0 < message.usage.first_token_ms <= message.usage.total_ms
    assert bench.pool.log == [f"opened {bench.pool.id}", f"closed {bench.pool.id}", f"finished {bench.pool.id}"]
    assert len(bench.runs) == 0


TOOL = {"type": "function", "function": {"name": "f"}}
NAMED = {"type": "function", "function": {"name": "f"}}


def asking(bench: Bench, *turns: Message, **options: object) -> None:
    """Let the bench's request be this."""
    messages = [Message(role="user", content="q"), *turns]
    asked = {"id": bench.pool.id, "role": "r", "messages": messages, **options}
    bench.pool.payload = ChatRequest.model_validate(asked).to_wire()


@pytest.mark.parametrize("choice", ["required", "any", NAMED])
async def test_prose_is_no_call(choice: object) -> None:
    """An answer of prose where a call is required is an error of its own, whichever provider gave it; what it said was
    delivered, and it is not asked for again."""
    bench = Bench()
    asking(bench, tools=[TOOL], tool_choice=choice)
    await bench.run()
    ending, end, code, _ = bench.ending
    assert (ending, end, code) == ("failed", 4, NoToolCall.code)
    assert bench.pool.requeued == []
    assert bench.heartbeat.faults == []


@pytest.mark.parametrize("options", [{"tool_choice": "auto"}, {"tool_choice": "none"}, {}])
async def test_prose_is_fine_where_no_call_is_required(options: dict[str, object]) -> None:
    """A model that may call a tool may say something instead."""
    bench = Bench()
    asking(bench, tools=[TOOL], **options)
    await bench.run()
    assert bench.ending[0] == "completed"


async def test_a_call_is_what_was_required() -> None:
    """With a call the answer is whole."""
    call = TokenDelta(tool_calls=(ToolCallDelta(index=0, id="c", name="f", arguments="{}"),), model="m1")

    class Calls(FakeProvider):
        async def chat(
            self, request: ChatRequest, model: str, resume: str | None = None
        ) -> AsyncGenerator[TokenDelta, None]:
            yield call
            yield TokenDelta(finish_reason="tool_calls", model=model)

    bench = Bench(Calls())
    asking(bench, tools=[TOOL], tool_choice="required")
    await bench.run()
    assert bench.ending[0] == "completed"


async def test_a_begun_answer_is_the_providers_to_continue() -> None:
    """The provider is asked to continue the text, and is given the conversation before it."""
    bench = Bench()
    asking(bench, Message(role="assistant", content="The capital of "), continue_final=True)
    await bench.run()
    (request,) = bench.provider.requests
    assert [message.content for message in request.messages] == ["q"]
    assert bench.provider.resumed == ["The capital of "]


async def test_what_is_not_ours_is_not_run() -> None:
    """An attempt that is gone opens no stream and ends nothing."""
    bench = Bench()
    bench.pool.gone = True
    await bench.run()
    assert bench.pool.log == []


async def test_an_attempt_is_claimed_until_the_pool_answers() -> None:
    """A start whose answer was lost may have been made: it is asked for again, until it is known or of no use."""
    bench = Bench()
    bench.pool.unavailable = True
    running = asyncio.create_task(bench.run())
    await until(lambda: bench.pool.refused_starts == 2)
    bench.pool.unavailable = False
    await running
    assert bench.pool.endings[0][0] == "completed"
    closing = Bench()
    closing.pool.unavailable = True
    running = asyncio.create_task(closing.run())
    await until(lambda: closing.pool.refused_starts == 1)
    closing.runs.close()
    await running
    assert closing.pool.log == []


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b'{"role":"r"}', b'{"messages": "\xff"}', b'{"messages":"xyzzy-the-prompt"}']
)
async def test_a_payload_that_is_no_request_fails_it(payload: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A payload that cannot be read ends the request as a bad one, without quoting it."""
    caplog.set_level(logging.DEBUG)
    bench = Bench()
    bench.pool.payload = payload
    await bench.run()
    ending, _, code, message = bench.ending
    assert (ending, code) == ("failed", BadRequest.code)
    assert SECRET not in message.model_dump_json() + caplog.text


@pytest.mark.parametrize("reason", ["cancelled", "expired"])
async def test_a_stop_closes_the_stream_first(reason: Any) -> None:
    """A request that is stopped ends for that reason, once its stream is closed."""
    bench = Bench(FakeProvider(hold_after=1))
    task = await bench.run_until_held()
    bench.only_run.stop(reason)
    await task
    assert bench.ending[0] == reason
    assert bench.pool.log == [f"opened {bench.pool.id}", f"closed {bench.pool.id}", f"finished {bench.pool.id}"]


async def test_a_deadline_expires_the_request() -> None:
    """When its time to live is over the request is expired, wherever its stream is."""
    bench = Bench(FakeProvider(hold_after=1))
    bench.pool.left_ms = 30
    await bench.run()
    assert bench.ending[0] == "expired"


async def test_a_request_cancelled_before_its_start_opens_no_stream() -> None:
    """The cancel flag that comes with the payload is obeyed."""
    bench = Bench()
    bench.pool.cancelled = True
    await bench.run()
    assert bench.ending[0] == "cancelled"
    assert bench.provider.requests == []


async def test_an_outdated_attempt_stops_and_says_nothing() -> None:
    """A newer attempt speaks for the request: the older one closes its stream and ends nothing."""
    bench = Bench(FakeProvider(hold_after=1))
    task = await bench.run_until_held()
    bench.only_run.stop("stale")
    await task
    assert bench.pool.log == [f"opened {bench.pool.id}", f"closed {bench.pool.id}"]
    assert not bench.publisher.replay(bench.pool.id, 5, 0)


async def test_an_answer_the_pool_does_not_want_is_forgotten() -> None:
    """If the attempt turns out stale at its end, its answer is not replayed to anybody."""
    bench = Bench()
    bench.pool.stale = True
    await bench.run()
    assert not bench.publisher.replay(bench.pool.id, 5, 0)


async def test_a_retryable_failure_gives_the_request_back_while_nothing_was_delivered() -> None:
    """A model server that is down before the first piece costs an attempt; `retry_after_s` is kept to."""
    bench = Bench(FakeProvider(error=RateLimited(retry_after_s=2.0)))
    await bench.run()
    assert bench.pool.requeued
    assert bench.pool.requeued[0] >= (2000, True)
    assert bench.pool.endings == []


@pytest.mark.parametrize(("most", "is_tried_again"), [(2, True), (1, False)])
async def test_what_becomes_of_a_failure_waits_for_the_policy(most: int, is_tried_again: bool) -> None:
    """It is decided by the pool's own rules, though the pool is away for a while."""
    bench = Bench(FakeProvider(error=RateLimited()))
    bench.lane = replace(bench.lane, timings=Timings(retry_s=0.001))
    bench.pool.rules = Policy(max_starts=most)
    bench.pool.lawless = [PoolUnavailable()] * 5
    await bench.run()
    assert (len(bench.pool.requeued), len(bench.pool.endings)) == (int(is_tried_again), int(not is_tried_again))


@pytest.mark.parametrize("avoided", [(), ("lane1", "lane2")])
async def test_what_is_given_back_waits_for_another_lane(avoided: tuple[str, ...]) -> None:
    """It waits among those with the same needs and the lane to avoid, the newest last."""
    bench = Bench(FakeProvider(error=ProviderDown()))
    bench.pool.needs = Needs(model="m1", avoid=avoided)
    await bench.run()
    (queue,) = bench.pool.queues
    assert queue is not None
    assert queue.needs == Needs(model="m1", avoid=(*avoided[1:], "lane1"))


async def test_what_the_server_has_forgotten_ends_where_it_would_wait_again() -> None:
    """A request that nobody can run again, since a wiped server knows no more than that it runs, ends as lost."""
    bench = Bench(FakeProvider(error=ProviderDown()))
    bench.pool.forgetful = True
    await bench.run()
    assert bench.ending[0::2] == ("failed", RequestLost.code)


@pytest.mark.parametrize(
    ("error", "fail_after", "starts"),
    [(ProviderDown(), 2, 1), (ProviderDown(), 0, 3), (BadRequest("no"), 0, 1)],
)
async def test_a_failure_that_cannot_be_repeated_ends_the_request(
    error: Exception, fail_after: int, starts: int
) -> None:
    """After the first delivered piece, the last allowed start, or for what is not retryable, the failure is final."""
    bench = Bench(FakeProvider(error=error, fail_after=fail_after, hold_after=fail_after))
    bench.pool.starts = starts
    task = asyncio.create_task(bench.run())
    if starts > 1:
        await until(lambda: any(isinstance(message, Resume) for message in bench.pool.published))
        bench.only_run.handover.set_result(Handover(id=bench.pool.id, attempt=5))
    await until(lambda: bench.provider.holding > 0)
    await until(lambda: sum(len(m.deltas) for m in bench.pool.published if isinstance(m, Deltas)) == fail_after)
    bench.provider.go.set()
    await task
    ending, end, code, message = bench.ending
    assert (ending, end) == ("failed", fail_after)
    assert isinstance(message, Failed)
    assert (message.error.provider, message.error.lane, message.error.model) == ("fake", "lane1", "m1")
    assert code == message.error.code == getattr(error, "code", "")


async def test_a_stream_without_a_finish_mark_is_no_answer() -> None:
    """A stream that merely ends is a failure, not a success."""
    bench = Bench(FakeProvider(finish=False, hold_after=3))
    task = await bench.run_until_held()
    await until(lambda: sum(len(m.deltas) for m in bench.pool.published if isinstance(m, Deltas)) == 3)
    bench.provider.go.set()
    await task
    assert bench.ending[0::2] == ("failed", Interrupted.code)


async def test_a_bug_in_a_provider_is_told_by_its_class_alone(caplog: pytest.LogCaptureFixture) -> None:
    """An exception no provider should raise fails the request, and its text is nowhere."""
    caplog.set_level(logging.DEBUG)
    bench = Bench(FakeProvider(error=ZeroDivisionError(SECRET)))
    await bench.run()
    ending, _, code, message = bench.ending
    assert (ending, code) == ("failed", ProviderDown.code)
    text = message.model_dump_json() + caplog.text
    assert "ZeroDivisionError" in text
    assert SECRET not in text


@pytest.mark.parametrize("outage", [PoolUnavailable(), QueueFull()])
async def test_the_end_waits_for_the_pool(outage: Exception) -> None:
    """An answer is held until the pool takes its end, be the server away or full."""
    bench = Bench()
    bench.lane = replace(bench.lane, timings=Timings(retry_s=0.001))
    bench.pool.outage = [outage] * 5
    await bench.run()
    assert bench.ending[0] == "completed"
    assert bench.publisher.replay(bench.pool.id, 5, 0)


async def test_the_end_waits_no_longer_than_the_worker() -> None:
    """A worker that shuts down without a pool leaves its requests to their leases."""
    bench = Bench()
    bench.pool.outage = [PoolUnavailable() for _ in range(1000)]
    bench.runs.closing = False
    task = asyncio.create_task(bench.run())
    await until(lambda: len(bench.pool.outage) < 1000)
    bench.runs.close()
    await task
    assert bench.pool.endings == []


async def again(bench: Bench, handover: Handover | None) -> list[ChannelMessage]:
    """Run a request that was started before; what was published up to its end."""
    bench.pool.starts = 2
    task = asyncio.create_task(bench.run())
    await until(lambda: any(isinstance(message, Resume) for message in bench.pool.published))
    if handover is not None:
        bench.only_run.handover.set_result(handover)
    await task
    return bench.pool.published


async def test_a_second_start_asks_the_agent_first() -> None:
    """An agent that has nothing gets the whole answer; the usage counts the starts."""
    bench = Bench()
    published = await again(bench, Handover(id=bench.pool.id, attempt=5, position=0))
    assert isinstance(published[0], Resume)
    message = bench.ending[3]
    assert isinstance(message, Completed)
    assert message.usage.attempts == 2


async def test_a_partial_answer_is_not_begun_anew() -> None:
    """An agent that has a part already is told that the answer broke off there."""
    bench = Bench()
    await again(bench, Handover(id=bench.pool.id, attempt=5, position=3))
    ending, end, code, message = bench.ending
    assert (ending, end, code) == ("failed", 3, Interrupted.code)
    assert isinstance(message, Failed)
    assert message.first == 3
    assert bench.provider.requests == []


@pytest.mark.parametrize(("lane", "model"), [("lane0", "m0"), ("", "")])
async def test_an_earlier_attempts_end_is_not_this_lanes(lane: str, model: str) -> None:
    """The error names the lane whose answer broke off, or none if nobody knows it; this lane has failed in nothing."""
    bench = Bench()
    suspected: list[bool] = []
    bench.lane.readiness.check_soon = lambda: suspected.append(True)  # type: ignore[method-assign]  # a spy
    totals = AttemptTotals()
    await again(bench, Handover(id=bench.pool.id, attempt=5, position=3, lane=lane, model=model))
    message = bench.ending[3]
    assert isinstance(message, Failed)
    assert (message.lane, message.model, bench.pool.blamed) == (lane, model, [lane])
    assert (message.error.lane, message.error.model, message.error.provider) == (lane or None, model or None, None)
    (event,) = bench.events
    totals.count(event)
    assert (event.request_outcome, totals.report().errors, suspected) == ("failed", {}, [])


async def test_a_request_whose_agent_is_done_is_cancelled() -> None:
    """What the agent no longer waits for is not run again."""
    bench = Bench()
    await again(bench, Handover(id=bench.pool.id, attempt=5, state="done"))
    assert bench.ending[0] == "cancelled"
    assert bench.provider.requests == []


async def test_an_agent_that_knows_a_newer_attempt_is_left_to_it() -> None:
    """An attempt the agent calls stale ends without a word."""
    bench = Bench()
    await again(bench, Handover(id=bench.pool.id, attempt=5, state="stale"))
    assert bench.pool.log == []


async def test_without_an_agent_nothing_is_run_again() -> None:
    """If nobody answers within the orphan time, the request is cancelled, never run anew."""
    bench = Bench()
    published = await again(bench, None)
    assert len(published) >= 2
    assert bench.ending[0] == "cancelled"
    assert bench.provider.requests == []


@pytest.mark.parametrize(("delivered", "outcome"), [(0, "requeued"), (1, "finished")])
async def test_shutting_down_gives_back_what_was_not_begun(delivered: int, outcome: str) -> None:
    """A request of which nothing was delivered waits again; one that was delivered in part is interrupted."""
    bench = Bench(FakeProvider(hold_after=delivered))
    task = await bench.run_until_held()
    await until(lambda: len(bench.pool.published) == delivered)
    bench.runs.close()
    await task
    assert bench.pool.log[1:] == [f"closed {bench.pool.id}", f"{outcome} {bench.pool.id}"]
    assert [ending[0::2] for ending in bench.pool.endings] == [("failed", Interrupted.code)] * delivered


async def test_a_cancelled_job_settles_before_it_goes() -> None:
    """A job whose task is cancelled, as ARQ's own worker does at its end, gives its request back first."""
    bench = Bench(FakeProvider(hold_after=0))
    async with background() as tasks:
        tasks.create_task(bench.publisher.run())
        task = asyncio.create_task(run_request(bench.lane, bench.pool.id, 5))
        await until(lambda: bench.provider.holding > 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert bench.pool.log[1:] == [f"closed {bench.pool.id}", f"requeued {bench.pool.id}"]
    assert len(bench.runs) == 0


@pytest.mark.parametrize(
    ("provider", "expected"),
    [
        (FakeProvider(), ("completed", "", 3)),
        (FakeProvider(error=BadRequest("no")), ("failed", BadRequest.code, 0)),
        (FakeProvider(error=RateLimited()), ("requeued", RateLimited.code, 0)),
        (FakeProvider(error=ZeroDivisionError(SECRET), fail_after=1), ("failed", ProviderDown.code, 0)),
    ],
    ids=["completed", "failed", "requeued", "a bug"],
)
async def test_each_ending_is_one_event_without_content(
    provider: FakeProvider, expected: tuple[str, str, int], caplog: pytest.LogCaptureFixture
) -> None:
    """The event says what became of the request, and why; neither it nor the log's line quotes anything."""
    caplog.set_level(logging.DEBUG)
    bench = Bench(provider)
    await bench.run()
    (event,) = bench.events
    assert (event.request_outcome, event.code, event.usage.completion_tokens) == expected
    assert (event.first_token_ms is None) == (bench.provider.fail_after == 0 and bench.provider.error is not None)
    assert event.usage.total_ms >= (event.first_token_ms or 0) >= 0
    assert SECRET not in repr(event) + caplog.text
    assert bench.pool.id in caplog.text


async def test_an_attempt_that_a_bug_leaves_to_its_lease_is_an_event_too() -> None:
    """Nothing of it is kept for agents: another attempt speaks for the request."""
    bench = Bench()
    bench.pool.outage = [ZeroDivisionError()]
    with pytest.raises(ZeroDivisionError):
        await bench.run()
    assert [event.request_outcome for event in bench.events] == ["left"]
    assert not bench.publisher.replay(bench.pool.id, 5, 0)


async def test_an_attempt_is_cancelled_though_the_pool_does_not_answer() -> None:
    """What its last words could not give back is left to its lease."""
    bench = Bench(FakeProvider(hold_after=1))
    bench.lane = replace(bench.lane, timings=Timings(requeue_s=0.01))
    bench.pool.outage = [PoolUnavailable() for _ in range(1000)]
    async with background() as tasks:
        tasks.create_task(bench.publisher.run())
        task = tasks.create_task(run_request(bench.lane, bench.pool.id, 5))
        await until(lambda: bench.provider.holding > 0)
        task.cancel()
        await asyncio.wait({task})
    assert task.cancelled()
    assert [event.request_outcome for event in bench.events] == ["left"]


async def test_what_a_shutdown_stops_is_an_event_too() -> None:
    """A job whose task is cancelled ends as one that is stopped."""
    bench = Bench(FakeProvider(hold_after=0))
    task = await bench.run_until_held()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(event.request_outcome, event.code) for event in bench.events] == [("requeued", "draining")]


async def test_a_bug_in_an_observer_spoils_nothing() -> None:
    """It is noted, and the others observe all the same."""
    bench = Bench()

    def fails(event: AttemptEnded) -> None:
        raise ZeroDivisionError

    bench.lane = replace(bench.lane, observers=(fails, bench.events.append))
    await bench.run()
    assert (bench.ending[0], len(bench.events), bench.pool.internal_errors.count) == ("completed", 1, 1)


async def test_the_span_names_the_error_and_no_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt has a span with the kind of its failure; the prompt and the error's text are not in it."""
    exporter, tracing = InMemorySpanExporter(), TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "tracer", lambda: tracing.get_tracer("test"))
    bench = Bench(FakeProvider(error=ZeroDivisionError(SECRET)))
    await bench.run()
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["error.type"] == ProviderDown.code
    assert SECRET not in span.to_json()
    tracing.shutdown()


@pytest.mark.parametrize(
    ("error", "noted"),
    [
        (None, []),
        (BadRequest("no"), []),
        (RateLimited(), [RateLimited.code]),
        (ValueError("quotes a prompt"), [ProviderDown.code]),
    ],
)
async def test_what_the_pool_is_told_of_a_model_server(error: Exception | None, noted: list[str]) -> None:
    """The code of a model server's error is noted for those who watch; not what is the agent's fault, and no text."""
    bench = Bench(FakeProvider(error=error))
    await bench.run()
    assert bench.heartbeat.faults == noted
