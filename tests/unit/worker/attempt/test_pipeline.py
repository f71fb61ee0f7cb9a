from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, Literal

import pytest
from opentelemetry.trace import StatusCode
from tests.attempt_bench import SECRET, Bench
from tests.traces import recorded_spans
from tests.waiting import until
from tests.workshop import FakeProvider

from tokenlane.routing.contract.answers import TokenDelta, ToolCallDelta
from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.errors import (
    BadRequest,
    LlmError,
    NoToolCall,
    PluginFailed,
    PoolKeyMismatch,
    PoolUnavailable,
    ProviderDown,
    QueueFull,
    RateLimited,
    Unauthorized,
)
from tokenlane.routing.contract.messages import Completed, Deltas, Failed, Handover, Resume, may_be_plain
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.routing.decide.lanes.state import LaneState
from tokenlane.routing.decide.policy import Policy, PromptPolicy
from tokenlane.routing.support.tasks import background
from tokenlane.worker.attempt.observe import AttemptTotals
from tokenlane.worker.attempt.pipeline import run_request
from tokenlane.worker.hooks.prompt_plugins import PromptPlugins
from tokenlane.worker.lane.running_attempts import AttemptEnded
from tokenlane.worker.lane.timings import Timings


@pytest.mark.parametrize("others_may", [True, False])
async def test_a_key_the_worker_lacks(others_may: bool) -> None:
    """A request that another worker may open is requeued, and the lane drains. A request that no worker can open fails,
    and the lane goes on. An unavailable pool is asked again."""
    bench = Bench()
    bench.pool.unseals = [PoolKeyMismatch("lacking", retryable=others_may), PoolUnavailable("away")]
    await bench.run()
    assert (bench.availability.state is LaneState.DRAINING) == others_may
    assert bench.pool.requeued == [(0, False)] * others_may
    assert [code for _, _, code, _ in bench.pool.endings] == ([] if others_may else [PoolKeyMismatch.code])


async def test_a_failed_attempt_ends_its_request_if_the_retry_budget_is_spent() -> None:
    """The agent gets the error of the attempt. An attempt that delivered something takes nothing from the budget."""
    for delivered in (0, 2):
        bench = Bench(FakeProvider(error=ProviderDown("HTTP 500"), fail_after=delivered))
        bench.pool.spent = True
        await bench.run()
        assert len(bench.pool.requeued) == (delivered > 0)
        assert [(ending, code) for ending, _, code, _ in bench.pool.endings] == [("failed", ProviderDown.code)] * (
            not delivered
        )


@pytest.mark.parametrize("ending", ["completed", "failed"])
async def test_every_message_about_a_sealed_request_is_sealed(ending: str) -> None:
    """With a pool key, the agent's question, the deltas and the ending are sealed with it."""
    error = None if ending == "completed" else BadRequest(detail=SECRET)
    bench = Bench(FakeProvider(error=error, fail_after=2))
    bench.seal()
    published = await bench.run_again(position=0)
    assert [type(message) for message in published[:2]] == [Resume, Deltas]
    assert bench.ending[0] == ending


async def test_a_worker_that_cannot_open_a_request_sends_nothing_but_its_failure() -> None:
    """The failure of a request that no worker can open is plain, and quotes nothing."""
    bench = Bench()
    bench.seal()
    bench.pool.unreadable = True
    bench.pool.unseals = [PoolKeyMismatch("lacking")]
    await bench.run()
    message = bench.ending[3]
    assert may_be_plain(message)
    assert bench.pool.published == []


async def test_a_complete_answer_completes_the_request() -> None:
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


@pytest.mark.parametrize("choice", ["required", "any", NAMED])
async def test_prose_where_a_tool_call_is_required_is_an_error(choice: object) -> None:
    """An answer without the required call fails with `NoToolCall`; its text is delivered, and it is not tried again."""
    bench = Bench()
    bench.ask(tools=[TOOL], tool_choice=choice)
    await bench.run()
    ending, end, code, _ = bench.ending
    assert (ending, end, code) == ("failed", 4, NoToolCall.code)
    assert bench.pool.requeued == []
    assert bench.heartbeat.faults == []


@pytest.mark.parametrize("options", [{"tool_choice": "auto"}, {"tool_choice": "none"}, {}])
async def test_prose_is_accepted_where_no_tool_call_is_required(options: dict[str, object]) -> None:
    """A model that may call a tool may answer with text instead."""
    bench = Bench()
    bench.ask(tools=[TOOL], **options)
    await bench.run()
    assert bench.ending[0] == "completed"


async def test_a_required_tool_call_completes_the_answer() -> None:
    """An answer with the required call is complete."""
    call = TokenDelta(tool_calls=(ToolCallDelta(index=0, id="c", name="f", arguments="{}"),), model="m1")

    class Calls(FakeProvider):
        async def chat(
            self, request: ChatRequest, model: str, resume: str | None = None
        ) -> AsyncGenerator[TokenDelta, None]:
            yield call
            yield TokenDelta(finish_reason="tool_calls", model=model)

    bench = Bench(Calls())
    bench.ask(tools=[TOOL], tool_choice="required")
    await bench.run()
    assert bench.ending[0] == "completed"


async def test_a_begun_answer_is_the_providers_to_continue() -> None:
    """The provider is asked to continue the text, and is given the conversation before it."""
    bench = Bench()
    bench.ask(Message(role="assistant", content="The capital of "), continue_final=True)
    await bench.run()
    (request,) = bench.provider.requests
    assert [message.content for message in request.messages] == ["q"]
    assert bench.provider.resumed == ["The capital of "]


async def test_an_attempt_that_cannot_be_claimed_is_not_run() -> None:
    """An attempt that the pool no longer has opens no stream and ends no request."""
    bench = Bench()
    bench.pool.gone = True
    await bench.run()
    assert bench.pool.log == []


async def test_an_attempt_is_claimed_until_the_pool_answers() -> None:
    """A start without a reply may have succeeded: it is repeated until the pool answers or the worker shuts down."""
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
    """An invalid payload fails the request with `BadRequest`, which does not quote it."""
    caplog.set_level(logging.DEBUG)
    bench = Bench()
    bench.pool.payload = payload
    await bench.run()
    ending, _, code, message = bench.ending
    assert (ending, code) == ("failed", BadRequest.code)
    assert SECRET not in message.model_dump_json() + caplog.text


@pytest.mark.parametrize("reason", ["cancelled", "expired"])
async def test_a_stop_closes_the_stream_first(reason: Any) -> None:
    """A stopped request ends for the reason of the stop, after its stream is closed."""
    bench = Bench(FakeProvider(hold_after=1))
    task = await bench.run_until_held()
    bench.only_run.stop(reason)
    await task
    assert bench.ending[0] == reason
    assert bench.pool.log == [f"opened {bench.pool.id}", f"closed {bench.pool.id}", f"finished {bench.pool.id}"]


async def test_a_deadline_expires_the_request() -> None:
    """A request expires at its deadline, however far its stream has come."""
    bench = Bench(FakeProvider(hold_after=1))
    bench.pool.left_ms = 30
    await bench.run()
    assert bench.ending[0] == "expired"


@pytest.mark.parametrize("left_ms", [0, -100])
async def test_a_request_whose_deadline_has_passed_opens_no_stream(left_ms: int) -> None:
    """The reply that starts an attempt may arrive after the request's deadline."""
    bench = Bench()
    bench.pool.left_ms = left_ms
    await bench.run()
    assert bench.ending[0] == "expired"
    assert bench.provider.requests == []


async def test_a_request_cancelled_before_its_start_opens_no_stream() -> None:
    """The cancel flag that comes with the payload is obeyed."""
    bench = Bench()
    bench.pool.cancelled = True
    await bench.run()
    assert bench.ending[0] == "cancelled"
    assert bench.provider.requests == []


async def test_an_outdated_attempt_stops_without_an_ending() -> None:
    """An attempt that a newer one replaced closes its stream and does not end the request."""
    bench = Bench(FakeProvider(hold_after=1))
    task = await bench.run_until_held()
    bench.only_run.stop("stale")
    await task
    assert bench.pool.log == [f"opened {bench.pool.id}", f"closed {bench.pool.id}"]
    assert not bench.publisher.replay(bench.pool.id, 5, 0)


async def test_an_answer_the_pool_does_not_want_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    """If the attempt turns out to be stale at its end, its answer is not kept for replays. That is no error: a newer
    attempt runs."""
    bench = Bench()
    bench.pool.stale = True
    await bench.run()
    assert not bench.publisher.replay(bench.pool.id, 5, 0)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_retryable_failure_before_the_first_delta_requeues_the_request() -> None:
    """The lane waits for as long as the model server asked, and not the request."""
    for error, counts in ((RateLimited(retry_after_s=60), False), (ProviderDown(retry_after_s=60), True)):
        bench = Bench(FakeProvider(error=error))
        await bench.run()
        ((due_ms, is_counted),) = bench.pool.requeued
        assert due_ms < 1_000
        assert is_counted == counts
        assert bench.lane.availability.state == "paused"
        assert bench.pool.endings == []


@pytest.mark.parametrize(("most", "is_tried_again"), [(2, True), (1, False)])
async def test_what_becomes_of_a_failure_waits_for_the_policy(most: int, is_tried_again: bool) -> None:
    """The pool's policy decides, even if the pool is unavailable for a while."""
    bench = Bench(FakeProvider(error=ProviderDown()))
    bench.lane = replace(bench.lane, timings=Timings(retry_s=0.001))
    bench.pool.rules = Policy(max_starts=most)
    bench.pool.lawless = [PoolUnavailable()] * 5
    await bench.run()
    assert (len(bench.pool.requeued), len(bench.pool.endings)) == (int(is_tried_again), int(not is_tried_again))


@pytest.mark.parametrize("avoided", [(), ("lane1", "lane2")])
async def test_a_requeued_request_avoids_the_lane_that_failed(avoided: tuple[str, ...]) -> None:
    """Its needs name the lanes to avoid, the newest last."""
    bench = Bench(FakeProvider(error=ProviderDown()))
    bench.pool.needs = Needs(model="m1", avoid=avoided)
    await bench.run()
    (queue,) = bench.pool.queues
    assert queue is not None
    assert queue.needs == Needs(model="m1", avoid=(*avoided[1:], "lane1"))


@pytest.mark.parametrize("state", ["forgotten", "cancelled", "expired"])
async def test_a_request_whose_payload_a_wiped_server_lost_is_left_to_its_agent(state: str) -> None:
    """No worker can run it again, so the pool forgets it, and the agent gets no error and finds it missing. The worker
    keeps none of its output, even if the request was cancelled or expired in this moment."""
    bench = Bench(FakeProvider(error=ProviderDown()))
    bench.pool.forgets_as = state
    bench.pool.forgetful = True
    bench.lane = replace(bench.lane, timings=Timings(retry_s=0.001))
    bench.pool.outage = [PoolUnavailable()]
    await bench.run()
    assert bench.pool.forgotten == [(bench.pool.id, 5, "worker1")]
    assert bench.pool.endings == []
    assert not bench.publisher.replay(bench.pool.id, 5, 0)


async def test_no_beat_restores_a_request_that_the_pool_forgot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the pool forgets the request, a beat without it ends, so that no beat is under way that names it."""
    bench, beats = Bench(FakeProvider(error=ProviderDown())), list[tuple[list[bool], bool]]()

    async def beat() -> None:
        beats.append(([run.renews_lease for run in bench.runs], bool(bench.pool.forgotten)))

    monkeypatch.setattr(bench.heartbeat, "beat", beat)
    bench.pool.forgetful = True
    await bench.run()
    assert bench.pool.forgotten
    assert beats[-1] == ([False], False)


@pytest.mark.parametrize(
    ("error", "fail_after", "starts"),
    [(ProviderDown(), 2, 3), (ProviderDown(), 0, 3), (BadRequest("no"), 2, 1), (BadRequest("no"), 0, 1)],
)
async def test_a_failure_that_cannot_be_repeated_ends_the_request(
    error: Exception, fail_after: int, starts: int
) -> None:
    """A failure is final after the last allowed start, or if it is not retryable, whatever was delivered."""
    bench = Bench(FakeProvider(error=error, fail_after=fail_after, hold_after=fail_after))
    bench.pool.starts = starts
    task = asyncio.create_task(bench.run())
    if starts > 1:
        await until(lambda: any(isinstance(message, Resume) for message in bench.pool.published))
        bench.only_run.receive_handover(Handover(id=bench.pool.id, attempt=5))
    await until(lambda: bench.provider.holding > 0)
    await until(lambda: sum(len(m.deltas) for m in bench.pool.published if isinstance(m, Deltas)) == fail_after)
    bench.provider.go.set()
    await task
    ending, end, code, message = bench.ending
    assert (ending, end) == ("failed", fail_after)
    assert isinstance(message, Failed)
    assert (message.error.provider, message.error.lane, message.error.model) == ("fake", "lane1", "m1")
    assert code == message.error.code == getattr(error, "code", "")


async def test_a_stream_without_a_finish_reason_is_a_failure() -> None:
    """A stream that just ends does not complete the request: another lane continues the answer."""
    bench = Bench(FakeProvider(finish=False, hold_after=3))
    task = await bench.run_until_held()
    await until(lambda: sum(len(m.deltas) for m in bench.pool.published if isinstance(m, Deltas)) == 3)
    bench.provider.go.set()
    await task
    assert bench.pool.endings == []
    assert bench.requeued_needs.continues == "m1"


async def test_an_unexpected_exception_of_a_provider_shows_only_its_class(caplog: pytest.LogCaptureFixture) -> None:
    """The exception fails the request, and its text is neither in the error nor in the log."""
    caplog.set_level(logging.DEBUG)
    bench = Bench(FakeProvider(error=ZeroDivisionError(SECRET)))
    await bench.run()
    ending, _, code, message = bench.ending
    assert (ending, code) == ("failed", ProviderDown.code)
    text = message.model_dump_json() + caplog.text
    assert "ZeroDivisionError" in text
    assert SECRET not in text


@pytest.mark.parametrize("step", ["pipeline.read", "pipeline.resume", "perform.render"])
async def test_a_bug_in_a_step_is_not_the_model_servers_failure(
    step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends the request with an error of its own, and neither the lane nor the circuit breaker learns of it."""

    async def broken(*_: object) -> None:
        raise ZeroDivisionError(SECRET)

    monkeypatch.setattr(f"tokenlane.worker.attempt.{step}", broken)
    bench, totals = Bench(), AttemptTotals()
    await bench.run()
    ending, _, code, message = bench.ending
    assert (ending, code) == ("failed", LlmError.code)
    assert isinstance(message, Failed)
    assert "ZeroDivisionError" in message.error.message
    assert bench.pool.internal_errors.count == 1
    assert bench.heartbeat.faults == []
    (event,) = bench.events
    totals.count(event)
    assert totals.report().failing == {}
    assert SECRET not in message.model_dump_json() + caplog.text


@pytest.mark.parametrize("on_error", ["fail", "skip"])
async def test_a_bug_in_our_code_for_plugins(
    on_error: Literal["fail", "skip"], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts as a failure of the plugin, which the policy may have skipped, and is counted as a bug."""

    async def broken(*_: object) -> None:
        raise ZeroDivisionError(SECRET)

    monkeypatch.setattr(PromptPlugins, "render", broken)
    bench = Bench()
    bench.pool.prompt = PromptPolicy(plugin=f"sha256:{'0' * 64}", on_error=on_error)
    await bench.run()
    ending, _, code, message = bench.ending
    assert (ending, code) == (("failed", PluginFailed.code) if on_error == "fail" else ("completed", ""))
    assert bench.pool.internal_errors.count == 1
    assert bench.heartbeat.faults == []
    assert SECRET not in message.model_dump_json() + caplog.text


@pytest.mark.parametrize("outage", [PoolUnavailable(), QueueFull()])
async def test_the_end_waits_for_the_pool(outage: Exception) -> None:
    """The end of an answer is reported again until the pool accepts it, whether Redis is away or full."""
    bench = Bench()
    bench.lane = replace(bench.lane, timings=Timings(retry_s=0.001))
    bench.pool.outage = [outage] * 5
    await bench.run()
    assert bench.ending[0] == "completed"
    assert bench.publisher.replay(bench.pool.id, 5, 0)


async def test_the_end_waits_no_longer_than_the_worker() -> None:
    """If the worker shuts down and the pool stays unavailable, its requests are left to their leases."""
    bench = Bench()
    bench.lane = replace(bench.lane, timings=Timings(retry_s=0.001, requeue_s=0.01))
    bench.pool.outage = [PoolUnavailable() for _ in range(1000)]
    task = asyncio.create_task(bench.run())
    await until(lambda: len(bench.pool.outage) < 1000)
    bench.runs.close()
    await task
    assert bench.pool.endings == []


@pytest.mark.parametrize("outage", [0, 3])
@pytest.mark.parametrize("delivered", [0, 1])
async def test_shutting_down_requeues_running_requests(delivered: int, outage: int) -> None:
    """A request waits again, whether its answer has begun or not, and even if Redis is away for a moment."""
    bench = Bench(FakeProvider(hold_after=delivered))
    bench.lane = replace(bench.lane, timings=Timings(retry_s=0.001))
    bench.pool.outage = [PoolUnavailable() for _ in range(outage)]
    task = await bench.run_until_held()
    await until(lambda: len(bench.pool.published) == delivered)
    bench.runs.close()
    await task
    assert bench.pool.log[1:] == [f"closed {bench.pool.id}", f"requeued {bench.pool.id}"]
    assert bench.pool.endings == []


async def test_a_cancelled_job_requeues_its_request_before_it_ends() -> None:
    """A job whose task is cancelled, as ARQ does when it stops, requeues its request first."""
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
    """The event has the request's outcome and the reason. Neither the event nor the log line quotes content."""
    caplog.set_level(logging.DEBUG)
    bench = Bench(provider)
    await bench.run()
    (event,) = bench.events
    assert (event.request_outcome, event.code, event.usage.completion_tokens) == expected
    assert bench.pool.causes == [event.code] * (event.request_outcome == "requeued")
    assert (event.first_token_ms is None) == (bench.provider.fail_after == 0 and bench.provider.error is not None)
    assert event.usage.total_ms >= (event.first_token_ms or 0) >= 0
    assert SECRET not in repr(event) + caplog.text
    assert bench.pool.id in caplog.text


async def test_a_failed_attempt_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """It names the lane, the request, the code and the HTTP status, and quotes nothing of the model server's text."""
    error = Unauthorized("The server refused the key.", detail=SECRET)
    error.http_status = 401
    bench = Bench(FakeProvider(error=error))
    await bench.run()
    (warning,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    for fact in (bench.lane.name, bench.pool.id, Unauthorized.code, "401"):
        assert fact in warning
    assert SECRET not in caplog.text


async def test_a_completed_attempt_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Its line is for those who log at level INFO."""
    caplog.set_level(logging.INFO)
    await Bench().run()
    assert {record.levelno for record in caplog.records} == {logging.INFO}


async def test_an_attempt_that_a_bug_leaves_to_its_lease_is_an_event_too() -> None:
    """None of its output is kept for replays: another attempt answers the request."""
    bench = Bench()
    bench.pool.outage = [ZeroDivisionError()]
    with pytest.raises(ZeroDivisionError):
        await bench.run()
    assert [event.request_outcome for event in bench.events] == ["left"]
    assert not bench.publisher.replay(bench.pool.id, 5, 0)


async def test_an_attempt_is_cancelled_though_the_pool_does_not_answer() -> None:
    """A request that could not be requeued in time is left to its lease."""
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
    """The event of a cancelled job is that of a stopped attempt."""
    bench = Bench(FakeProvider(hold_after=0))
    task = await bench.run_until_held()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(event.request_outcome, event.code) for event in bench.events] == [("requeued", "draining")]
    assert bench.pool.causes == ["draining"]


async def test_a_bug_in_an_observer_affects_no_other_observer() -> None:
    """The exception is counted, and the other observers still run."""
    bench = Bench()

    def fails(event: AttemptEnded) -> None:
        raise ZeroDivisionError

    bench.lane = replace(bench.lane, observers=(fails, bench.events.append))
    await bench.run()
    assert (bench.ending[0], len(bench.events), bench.pool.internal_errors.count) == ("completed", 1, 1)


async def test_the_span_names_the_error_and_no_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt has a span with the error's code, but without the prompt and the error's text."""
    spans = recorded_spans(monkeypatch)
    bench = Bench(FakeProvider(error=ZeroDivisionError(SECRET)))
    await bench.run()
    call, attempt = spans.get_finished_spans()
    assert (call.name, attempt.name) == ("chat m1", "llm.attempt")
    assert call.parent == attempt.context
    errors = [dict(span.attributes or {})["error.type"] for span in (call, attempt)]
    assert errors == ["ZeroDivisionError", ProviderDown.code]
    assert {span.status.status_code for span in (call, attempt)} == {StatusCode.ERROR}
    assert SECRET not in call.to_json() + attempt.to_json()


@pytest.mark.parametrize(
    ("error", "noted"),
    [
        (None, []),
        (BadRequest("no"), []),
        (RateLimited(), [RateLimited.code]),
        (ValueError("quotes a prompt"), [ProviderDown.code]),
    ],
)
async def test_failures_of_a_model_server_are_reported_to_the_pool(error: Exception | None, noted: list[str]) -> None:
    """The code of a model server's error is reported, without its text. Errors caused by the agent are not reported."""
    bench = Bench(FakeProvider(error=error))
    await bench.run()
    assert bench.heartbeat.faults == noted
