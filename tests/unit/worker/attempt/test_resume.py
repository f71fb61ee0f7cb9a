from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from tests.attempt_bench import Bench
from tests.waiting import until
from tests.workshop import FakeProvider

from tokenlane.routing.contract.answers import TokenDelta, ToolCallDelta, Usage
from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.errors import BadRequest, Interrupted, NoToolCall, ProviderDown
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
from tokenlane.routing.decide.policy import RolePolicy
from tokenlane.worker.attempt.observe import AttemptTotals
from tokenlane.worker.lane.attempt_key import AttemptKey
from tokenlane.worker.lane.timings import Timings

PART = {"position": 3, "text": "one two ", "tokens": 3, "lane": "lane0", "model": "m1"}
"""The agent's part of an answer that m1 began on another lane."""
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
TOOL = {"type": "function", "function": {"name": "f"}}


class Refuses(FakeProvider):
    """A model server that does not continue answers."""

    async def chat(
        self, request: ChatRequest, model: str, resume: str | None = None
    ) -> AsyncGenerator[TokenDelta, None]:
        if resume is not None:
            raise BadRequest("it does not continue answers: send the request without a partial answer")
        async for delta in super().chat(request, model, resume):
            yield delta


class Counts(FakeProvider):
    """A model server that counts the tokens of the prompt."""

    async def chat(
        self, request: ChatRequest, model: str, resume: str | None = None
    ) -> AsyncGenerator[TokenDelta, None]:
        yield TokenDelta(text="a", model=model)
        usage = Usage(prompt_tokens=10, completion_tokens=4, cached_tokens=9)
        yield TokenDelta(finish_reason="stop", model=model, usage=usage)


class Calls(FakeProvider):
    """A model server that calls a tool and then fails."""

    async def chat(
        self, request: ChatRequest, model: str, resume: str | None = None
    ) -> AsyncGenerator[TokenDelta, None]:
        yield TokenDelta(text="I call", model=model)
        yield TokenDelta(tool_calls=(ToolCallDelta(id="c", name="f"),), model=model)
        await self._happen(2)


class Dated(FakeProvider):
    """A model server that names its model with a date."""

    async def chat(
        self, request: ChatRequest, model: str, resume: str | None = None
    ) -> AsyncGenerator[TokenDelta, None]:
        yield TokenDelta(text="a", model=f"owner/{model}-2026-01-01")
        await self._happen(1)


class Thinks(FakeProvider):
    """A model server that reasons and then fails."""

    async def chat(
        self, request: ChatRequest, model: str, resume: str | None = None
    ) -> AsyncGenerator[TokenDelta, None]:
        yield TokenDelta(reasoning="Hm", model=model)
        await self._happen(1)


def answers(bench: Bench) -> list[Deltas | Completed | Failed]:
    """The messages with parts of the answer, up to its end."""
    messages: list[ChannelMessage] = [*bench.pool.published, *(ending[3] for ending in bench.pool.endings)]
    return [message for message in messages if isinstance(message, Deltas | Completed | Failed)]


def text_by_position(bench: Bench) -> dict[int, str]:
    """The published pieces of text."""
    return {
        position: delta.text
        for message in answers(bench)
        for position, delta in enumerate(message.deltas, message.first)
    }


async def fail_after(bench: Bench, published: int) -> None:
    """Run a request whose model server fails after so many deltas have been published."""
    task = await bench.run_until_held()
    await until(lambda: sum(len(m.deltas) for m in bench.pool.published if isinstance(m, Deltas)) == published)
    bench.provider.go.set()
    await task


async def test_an_agent_without_any_part_gets_the_whole_answer() -> None:
    """A second start asks the agent first, and the usage counts the starts."""
    bench = Bench()
    published = await bench.run_again(position=0)
    assert isinstance(published[0], Resume)
    message = bench.ending[3]
    assert isinstance(message, Completed)
    assert (message.end, message.usage.attempts) == (4, 2)
    assert bench.provider.resumed == [None]


async def test_the_answer_goes_on_where_the_agents_part_ends() -> None:
    """The model server continues the text, and the positions go on."""
    bench = Bench()
    await bench.run_again(**PART)
    assert bench.provider.resumed == ["one two "]
    assert text_by_position(bench) == {3: "a", 4: "b", 5: "c", 6: ""}
    ending, end, _, message = bench.ending
    assert (ending, end) == ("completed", 7)
    assert isinstance(message, Completed)
    assert not any(message.begun_by for message in answers(bench))


async def test_usage_counts_delivered_tokens_once() -> None:
    """Tokens of earlier attempts are tokens of the answer. The last server counted them as part of the prompt, except
    the space at the end, which it did not get and generated again."""
    bench = Bench(Counts())
    await bench.run_again(**PART)
    message = bench.ending[3]
    assert isinstance(message, Completed)
    usage = message.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.attempts) == (8, 6, 8, 2)


async def test_a_beginning_by_the_agent_and_its_part_are_continued_together() -> None:
    """The text to continue is the agent's own beginning and then what earlier attempts delivered."""
    bench = Bench()
    bench.ask(Message(role="assistant", content="zero "), continue_final=True)
    await bench.run_again(**PART)
    assert bench.provider.resumed == ["zero one two "]
    assert [message.content for message in bench.provider.requests[0].messages] == ["q"]


@pytest.mark.parametrize(("most", "left"), [(None, None), (10, 8), (4, 2)])
async def test_the_rest_of_the_answer_may_use_the_rest_of_max_tokens(most: int | None, left: int | None) -> None:
    """The delivered tokens count towards the limit, except the space at the end, which is generated again."""
    bench = Bench()
    bench.ask(**({} if most is None else {"max_tokens": most}))
    await bench.run_again(**PART)
    assert bench.provider.requests[0].max_tokens == left


async def test_an_answer_that_has_reached_max_tokens_is_complete() -> None:
    """No model server is asked for it, even if this lane could not continue the answer."""
    bench = Bench(abilities=["chat"])
    bench.ask(max_tokens=3)
    await bench.run_again(**PART)
    ending, end, _, message = bench.ending
    assert (ending, end, bench.provider.requests) == ("completed", 4, [])
    deltas = [delta for each in answers(bench) for delta in each.deltas]
    assert [delta.finish_reason for delta in deltas] == ["length"]
    assert isinstance(message, Completed)
    assert message.usage.completion_tokens == 3


@pytest.mark.parametrize(("obstacle", "finish_reason"), [("tool_call", "length"), ("", "tool_calls")])
async def test_an_answer_of_which_only_the_end_is_missing_is_complete(obstacle: str, finish_reason: str) -> None:
    """If the agent has the finish reason, no model server is asked. A required call may have been delivered."""
    bench = Bench(abilities=["chat"])
    bench.ask(tools=[TOOL], tool_choice="required")
    await bench.run_again(**{**PART, "obstacle": obstacle}, finish_reason=finish_reason)
    ending, end, _, message = bench.ending
    assert (ending, end, bench.provider.requests) == ("completed", 3, [])
    assert isinstance(message, Completed)
    assert (message.first, message.deltas) == (3, [])


async def test_a_long_text_arrives_in_pieces() -> None:
    """The text is complete when all pieces of one reply have arrived, in any order. Pieces of an earlier reply and
    malformed pieces do not count, and the agent is not asked again while pieces arrive."""
    bench = Bench()
    bench.lane = replace(bench.lane, timings=Timings(retry_s=0.001))
    bench.pool.starts = 2
    task = asyncio.create_task(bench.run())
    await until(lambda: any(isinstance(message, Resume) for message in bench.pool.published))
    part = {**PART, "pieces": 3}
    bench.hand_over(**{**part, "position": 2}, piece=0)
    for piece, text in [(2, "three"), (0, "one "), (0, "one "), (3, "x")]:
        bench.hand_over(**{**part, "text": text}, piece=piece)
    assert bench.only_run.is_handover_arriving
    bench.hand_over(**{**part, "text": "two "}, piece=1)
    await task
    assert bench.provider.resumed == ["one two three"]


async def test_a_long_text_may_take_longer_than_a_reply() -> None:
    """A slow connection does not make the request wait again and again, as long as pieces arrive."""
    bench = Bench()
    bench.lane = replace(bench.lane, timings=Timings(retry_s=0.01, handover_s=0.2))
    bench.pool.starts = 2
    task = asyncio.create_task(bench.run())
    await until(lambda: any(isinstance(message, Resume) for message in bench.pool.published))
    for piece in range(6):
        bench.hand_over(**{**PART, "text": str(piece), "pieces": 6}, piece=piece)
        await asyncio.wait({task}, timeout=0.05)
    await task
    assert (bench.pool.requeued, bench.provider.resumed) == ([], ["012345"])


async def test_a_long_text_of_which_a_piece_is_lost_frees_the_slot() -> None:
    """The next attempt asks for all of it again."""
    bench = Bench()
    bench.lane = replace(bench.lane, timings=Timings(retry_s=0.01, handover_s=0.1))
    bench.pool.starts = 2
    task = asyncio.create_task(bench.run())
    await until(lambda: any(isinstance(message, Resume) for message in bench.pool.published))
    bench.hand_over(**{**PART, "pieces": 2}, piece=1)
    await task
    assert bench.pool.causes == ["no_handover"]


async def test_a_lane_that_cannot_continue_gives_the_answer_to_a_lane_that_can() -> None:
    """The request waits for such a lane at once, and the start does not count."""
    bench = Bench(abilities=["chat"])
    await bench.run_again(**PART)
    assert bench.pool.requeued == [(0, False)]
    assert (bench.requeued_needs.continues, bench.requeued_needs.restarts) == ("m1", False)
    assert (bench.provider.requests, bench.pool.endings) == ([], [])


async def test_an_attempt_that_leaves_its_answer_to_another_lane_is_no_error() -> None:
    """The event names the reason, and neither an error nor a continued answer is counted for the lane."""
    bench, totals = Bench(abilities=["chat"]), AttemptTotals()
    await bench.run_again(**PART)
    (event,) = bench.events
    totals.count(event)
    assert (event.request_outcome, event.code, totals.report().errors) == ("requeued", "cannot_continue", {})
    assert totals.report().continued == 0
    assert bench.pool.causes == ["cannot_continue"]


@pytest.mark.parametrize(("continue_with", "continues"), [("same-model", False), ("any", True)])
async def test_another_model_continues_only_if_the_policy_allows_it(continue_with: str, continues: bool) -> None:
    """The policy of the role decides, for a request that a router dispatched here to be continued."""
    bench = Bench()
    bench.pool.rules = bench.pool.rules.model_copy(
        update={"roles": {"r": RolePolicy.model_validate({"continue_with": continue_with})}}
    )
    bench.pool.needs = Needs(continues="m0")
    await bench.run_again(**{**PART, "model": "m0"})
    assert bench.ending[0] == ("completed" if continues else "failed")
    assert bench.provider.resumed == (["one two "] if continues else [])


async def test_a_part_without_text_is_continued_with_the_whole_answer() -> None:
    """Its deltas had only log probabilities, so there is nothing to hand to the model server."""
    bench = Bench()
    await bench.run_again(**{**PART, "position": 1, "text": "", "tokens": 0})
    assert (bench.ending[:2], bench.provider.resumed) == (("completed", 5), [None])


async def test_a_lane_has_its_own_name_of_a_model() -> None:
    """The model server may add a date to it. The agent hands the lane's own name over, since lanes know no other."""
    bench = Bench(Dated(hold_after=1, error=ProviderDown(), fail_after=1))
    await fail_after(bench, published=1)
    (deltas,) = [message for message in bench.pool.published if isinstance(message, Deltas)]
    assert (deltas.model, deltas.served_as) == ("owner/m1-2026-01-01", "m1")


async def test_an_answer_that_nobody_can_continue_ends() -> None:
    """The error names the lane of the earlier attempt, and is not counted for this lane."""
    bench, totals = Bench(abilities=["chat"]), AttemptTotals()
    suspected: list[bool] = []
    bench.lane.readiness.check_soon = lambda: suspected.append(True)  # type: ignore[method-assign]  # a spy
    bench.pool.needs = Needs(continues="m1")
    await bench.run_again(**PART)
    ending, end, code, message = bench.ending
    assert (ending, end, code) == ("failed", 3, Interrupted.code)
    assert isinstance(message, Failed)
    assert (message.first, message.lane, message.model, bench.pool.blamed) == (3, "lane0", "m1", ["lane0"])
    assert (message.error.lane, message.error.model, message.error.provider) == ("lane0", "m1", None)
    (event,) = bench.events
    totals.count(event)
    assert (event.request_outcome, totals.report().errors, suspected) == ("failed", {}, [])


async def test_an_answer_that_nobody_can_continue_begins_anew_if_the_agent_allows_it() -> None:
    """All messages of the new answer say so, and positions begin at 0."""
    bench = Bench(abilities=["chat"])
    bench.ask(on_interrupt="restart", max_tokens=5)
    bench.pool.needs = Needs(continues="m1", restarts=True)
    await bench.run_again(**PART)
    assert text_by_position(bench) == {0: "a", 1: "b", 2: "c", 3: ""}
    assert all(message.begun_by == message.attempt for message in answers(bench))
    assert (bench.ending[:2], bench.provider.resumed) == (("completed", 4), [None])
    assert bench.provider.requests[0].max_tokens == 5


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize(
    ("part", "options"),
    [
        ({**PART, "obstacle": "tool_call"}, {}),
        ({**PART, "text": "", "obstacle": "reasoning"}, {}),
        ({**PART, "obstacle": "part"}, {}),
        ({"position": 3, "lane": "lane0", "model": "m1"}, {}),
        (PART, {"response_format": SCHEMA}),
    ],
    ids=["tool call", "reasoning", "joined in the middle", "agent without text", "schema"],
)
async def test_obstacles(part: dict[str, object], options: dict[str, object], restarts: bool) -> None:
    """An answer that no lane can continue ends, or begins anew if the agent allows it."""
    bench = Bench()
    bench.ask(on_interrupt="restart" if restarts else "error", **options)
    await bench.run_again(**part)
    assert bench.ending[0::2] == (("completed", "") if restarts else ("failed", Interrupted.code))
    assert bench.pool.requeued == []


async def test_a_refusal_to_continue_sends_the_request_elsewhere() -> None:
    """The agent does not get the refusal as its own bad request: another lane may continue the answer."""
    bench = Bench(Refuses())
    await bench.run_again(**PART)
    assert bench.pool.endings == []
    needs = bench.requeued_needs
    assert (needs.continues, needs.avoid) == ("m1", ("lane1",))


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_second_refusal_is_final(restarts: bool) -> None:
    """A lane that is asked once more, for lack of others, ends the request or begins the answer anew."""
    bench = Bench(Refuses())
    bench.ask(on_interrupt="restart" if restarts else "error")
    bench.pool.needs = Needs(continues="m1", avoid=("lane1",), restarts=restarts)
    await bench.run_again(**PART)
    assert bench.ending[0::2] == (("completed", "") if restarts else ("failed", Interrupted.code))
    assert all((message.begun_by == message.attempt) == restarts for message in answers(bench))
    (attempt,) = {AttemptKey(bench.pool.id, message.attempt) for message in answers(bench)}
    kept = map(channel_message, bench.publisher.memory.after(attempt, -1))
    parts = [message.stands_for for message in kept if isinstance(message, Deltas) and message.stands_for]
    assert parts == ([] if restarts else [3]), "what is void is not replayed"


async def test_the_part_is_kept_for_clients_that_attach_later() -> None:
    """It is replayed before the deltas of this attempt, as one delta of the lane that wrote it."""
    bench = Bench()
    await bench.run_again(**PART, reasoning="hm")
    (message,) = [message for message in answers(bench) if isinstance(message, Completed)]
    part, *_ = map(channel_message, bench.publisher.memory.after(AttemptKey(bench.pool.id, message.attempt), -1))
    assert isinstance(part, Deltas)
    assert (part.first, part.stands_for, part.lane, part.model) == (0, 3, "lane0", "m1")
    assert [(delta.reasoning, delta.text) for delta in part.deltas] == [("hm", "one two ")]


async def test_a_bad_request_stays_one() -> None:
    """What a model server refuses on a first start goes to the agent."""
    bench = Bench(FakeProvider(error=BadRequest("no")))
    bench.ask(Message(role="assistant", content="zero "), continue_final=True)
    await bench.run()
    assert bench.ending[2] == BadRequest.code


async def test_a_silent_agent_frees_the_slot_soon() -> None:
    """The request waits again without a start, after a pause in which an agent that is gone is noticed."""
    bench = Bench()
    bench.lane = replace(bench.lane, timings=Timings(retry_s=0.01, handover_s=0.1))
    bench.pool.starts = 2
    bench.pool.needs = Needs(continues="m1")
    await bench.run()
    ((due_ms, counts),) = bench.pool.requeued
    assert due_ms >= 1000
    assert not counts
    assert bench.pool.causes == ["no_handover"]
    assert bench.requeued_needs == bench.pool.needs
    assert (bench.provider.requests, bench.pool.endings) == ([], [])
    assert sum(isinstance(message, Resume) for message in bench.pool.published) > 1


@pytest.mark.parametrize(("state", "ending"), [("done", ["cancelled"]), ("stale", [])])
async def test_an_agent_that_does_not_want_the_answer_from_this_attempt(state: str, ending: list[str]) -> None:
    """A request whose agent is done is cancelled, and a stale attempt leaves it to the newer one."""
    bench = Bench()
    await bench.run_again(state=state)
    assert [each[0] for each in bench.pool.endings] == ending
    assert (bench.provider.requests, bench.pool.requeued) == ([], [])


async def test_a_server_that_fails_in_mid_answer_leaves_the_rest_to_another() -> None:
    """The request is requeued for a lane that continues this model's answer, and this lane is avoided."""
    bench = Bench(FakeProvider(error=ProviderDown(), fail_after=2, hold_after=2))
    await fail_after(bench, published=2)
    needs = bench.requeued_needs
    assert (needs.continues, needs.avoid, needs.restarts) == ("m1", ("lane1",), False)
    assert [counts for _, counts in bench.pool.requeued] == [True]
    assert bench.pool.endings == []
    assert not bench.publisher.replay(bench.pool.id, 5, 0)


async def test_an_attempt_that_adds_nothing_leaves_the_model_to_continue_as_it_was() -> None:
    """The next attempt continues the answer of the model that wrote it."""
    bench = Bench(FakeProvider(error=ProviderDown()))
    bench.pool.rules = bench.pool.rules.model_copy(update={"roles": {"r": RolePolicy(continue_with="any")}})
    bench.pool.needs = Needs(continues="m0")
    await bench.run_again(**{**PART, "model": "m0"})
    assert bench.requeued_needs.continues == "m0"


@pytest.mark.parametrize(
    ("provider", "published", "options"),
    [
        (Calls(error=ProviderDown(), fail_after=2, hold_after=2), 2, {}),
        (Thinks(error=ProviderDown(), fail_after=1, hold_after=1), 1, {}),
        (FakeProvider(error=ProviderDown(), fail_after=1, hold_after=1), 1, {"response_format": SCHEMA}),
    ],
    ids=["tool call", "reasoning", "schema"],
)
async def test_a_broken_answer_with_an_obstacle_ends(
    provider: FakeProvider, published: int, options: dict[str, object]
) -> None:
    """No lane could continue it, so the agent gets `Interrupted` at once."""
    bench = Bench(provider)
    bench.ask(**options)
    await fail_after(bench, published)
    assert bench.ending[0::2] == ("failed", Interrupted.code)
    assert bench.pool.requeued == []


async def test_an_obstacle_does_not_end_a_request_whose_answer_may_begin_anew() -> None:
    """It is tried again, on any lane."""
    bench = Bench(Thinks(error=ProviderDown(), fail_after=1, hold_after=1))
    bench.ask(on_interrupt="restart")
    await fail_after(bench, published=1)
    assert bench.requeued_needs.continues is None
    assert bench.pool.endings == []


async def test_a_required_call_is_still_required_of_the_end() -> None:
    """An answer whose end is missing, and that calls no tool, fails as it would have without the interruption."""
    bench = Bench()
    bench.ask(tools=[TOOL], tool_choice="required")
    await bench.run_again(**PART, finish_reason="stop")
    assert bench.ending[2] == NoToolCall.code


async def test_a_handover_for_another_attempt_changes_nothing() -> None:
    """Once the reply is complete, further pieces are ignored."""
    bench = Bench(FakeProvider(hold_after=0))
    task = await bench.start_again(**PART)
    await until(lambda: bench.provider.holding > 0)
    bench.only_run.receive_handover(Handover(id=bench.pool.id, attempt=5, position=1, text="x"))
    bench.provider.go.set()
    await task
    assert bench.provider.resumed == ["one two "]


async def test_a_shutdown_hands_over_what_was_published() -> None:
    """The last flush has ended before the request is requeued, so the next attempt finds the agent with all of it."""
    bench = Bench(FakeProvider(hold_after=2))
    task = await bench.run_until_held()
    await until(lambda: sum(len(m.deltas) for m in bench.pool.published if isinstance(m, Deltas)) == 2)
    bench.runs.close()
    await task
    assert bench.pool.log[1:] == [f"closed {bench.pool.id}", f"requeued {bench.pool.id}"]
    assert (bench.requeued_needs.continues, bench.requeued_needs.avoid) == ("m1", ())
    assert bench.pool.requeued == [(0, True)]


async def test_a_broken_answer_outlives_a_spent_retry_budget() -> None:
    """The request is tried again even if the attempt that continues the answer fails before its first delta."""
    bench = Bench(FakeProvider(error=ProviderDown("HTTP 500")))
    bench.pool.spent = True
    await bench.run_again(**PART)
    assert bench.pool.endings == []
    assert bench.requeued_needs.continues == "m1"


async def test_an_answer_begun_anew_outlives_a_spent_retry_budget() -> None:
    """The agent still has the part that the new answer replaces, even if the attempt fails before its first delta."""
    bench = Bench(FakeProvider(error=ProviderDown("HTTP 500")))
    bench.pool.spent = True
    bench.ask(on_interrupt="restart")
    await bench.run_again(**{**PART, "obstacle": "tool_call"})
    assert bench.pool.endings == []
    assert (bench.requeued_needs.continues, bench.requeued_needs.avoid) == (None, ("lane1",))


async def test_an_answer_begun_anew_that_breaks_off_at_last_is_not_retryable() -> None:
    """The agent has part of an answer, so it gets the interruption of the last start as one that is final."""
    bench = Bench(FakeProvider(error=Interrupted("it broke off", retryable=True)))
    bench.pool.starts = bench.pool.rules.max_starts
    bench.ask(on_interrupt="restart")
    await bench.run_again(**{**PART, "obstacle": "tool_call"})
    message = bench.ending[3]
    assert isinstance(message, Failed)
    assert (message.error.code, message.error.retryable) == (Interrupted.code, False)
