"""Every arrow of the state machine of a request, by the call that takes it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from tests.integration import life
from tests.integration.life import AGENT, CLIENT, LANE, PREFIX, ROLE, WORKER, Asked, audit, raw
from tests.lanes import chats

from tokenlane.routing.contract.errors import QueueFull
from tokenlane.routing.decide.lanes.state import LaneState, ServerCondition
from tokenlane.routing.decide.policy import Policy, PromptPolicy, RolePolicy
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.replies.values import Reply
from tokenlane.routing.store.request_life import Ending
from tokenlane.routing.store.scripts import Scripts


async def fields(pool: Pool, request_id: str) -> dict[str, str]:
    """The request's hash."""
    found = await raw(pool).hgetall(f"{PREFIX}request:{request_id}")
    return {name.decode(): value.decode() for name, value in found.items()}


async def test_submit_accepts_a_request(pool: Pool) -> None:
    """An accepted request waits, its envelope and payload in its role's stream, and the routers are rung."""
    async with life.listen(pool) as ear:
        envelope = life.envelope()
        accepted = await pool.requests.submit(envelope, b"\x00sealed\xff")
        assert [channel for channel, _ in await ear.heard()] == ["doorbell"]
    assert accepted == envelope.id
    assert await audit(raw(pool)) == {envelope.id: "waiting"}
    ((_, entry),) = await raw(pool).xrange(f"{PREFIX}role:planner")
    assert entry == {b"envelope": envelope.to_wire(), b"payload": b"\x00sealed\xff"}
    (head,) = (await pool.survey()).heads
    assert (head.id, head.agent, head.more) == (envelope.id, AGENT, False)


def without_rates(keys: life.Dump) -> life.Dump:
    """The keys of a pool without the counters of requests."""
    return {key: value for key, value in keys.items() if "rates:" not in key}


@pytest.mark.parametrize("limit", ["depth", "in_flight"])
async def test_submit_refuses_requests_over_a_limit(pool: Pool, limit: str) -> None:
    """Over the role's depth or the agent's requests in flight, submit raises QueueFull and only counts the refusal."""
    await pool.policies.write(Policy.model_validate({limit: 2}))
    await life.submit(pool)
    await life.submit(pool)
    before = without_rates(await life.snapshot(raw(pool)))
    with pytest.raises(QueueFull) as refused:
        await life.submit(pool)
    assert refused.value.retry_after_s == pytest.approx(1.0)
    assert ("Role 'planner'" if limit == "depth" else "Agent 'agent1'") in refused.value.message
    assert without_rates(await life.snapshot(raw(pool))) == before


async def test_a_full_role_leaves_room_in_others(pool: Pool) -> None:
    """The depth is a role's own, and what has ended makes room."""
    await pool.policies.write(Policy(depth=1))
    first = await life.submit(pool)
    await life.submit(pool, life.envelope(role="coder"))
    await pool.requests.cancel(first)
    await life.submit(pool)
    await audit(raw(pool))


async def test_dispatch_gives_the_lane_a_job(pool: Pool) -> None:
    """A dispatched request is a job on the lane's ARQ queue, with a start lease, and the lane is rung."""
    request_id = await life.submit(pool)
    await life.beat(pool)
    async with life.listen(pool) as ear:
        attempt = await life.dispatch(pool, request_id)
        assert [channel for channel, _ in await ear.heard()] == ["doorbell:lane1"]
    assert attempt is not None
    assert await audit(raw(pool)) == {request_id: "dispatched"}
    assert await raw(pool).zrange(pool.keys.lane_queue("lane1"), 0, -1) == [f"{{main}}{request_id}:{attempt}".encode()]
    lease = await raw(pool).zscore(f"{PREFIX}leases", request_id)
    survey = await pool.survey()
    assert lease is not None
    assert lease - survey.now_ms <= Policy().start_lease_ms
    assert (survey.heads, survey.lanes[0].credit_for("chat")) == ((), 1)


async def test_an_attempt_is_newer_than_all_before(pool: Pool) -> None:
    """Attempts are the server's time in ms, and above the floor and every earlier attempt."""
    floor = 10**13
    request_id = await life.submit(pool, floor=floor)
    await life.beat(pool)
    assert await life.dispatch(pool, request_id) == floor + 1
    await pool.requests.requeue(request_id, floor + 1, WORKER)
    assert await life.dispatch(pool, request_id) == floor + 2
    other = await life.submit(pool)
    attempt = await life.dispatch(pool, other)
    now_ms = (await pool.survey()).now_ms
    assert attempt is not None
    assert 0 <= now_ms - attempt < 60_000


async def test_start_gives_the_worker_what_to_run(pool: Pool) -> None:
    """The worker that starts an attempt gets the envelope, the payload, the model and the time to the deadline."""
    envelope = life.envelope(time_to_live_ms=50_000)
    asked = await life.dispatched(pool, await life.submit(pool, envelope))
    started = await pool.requests.start(asked.id, asked.attempt, WORKER)
    assert started is not None
    assert (started.envelope, started.payload, started.model) == (envelope, life.PAYLOAD, "m1")
    assert (started.starts, started.cancelled) == (1, False)
    assert 0 < started.left_ms <= 50_000
    assert started.waited_ms >= 0
    assert await audit(raw(pool)) == {asked.id: "running"}
    lease = await raw(pool).zscore(f"{PREFIX}leases", asked.id)
    assert lease is not None
    assert lease - (await pool.survey()).now_ms > Policy().start_lease_ms


async def test_a_reply_that_comes_late_leaves_less_time(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the network is slow or the worker was frozen, the time until the reply is subtracted, so that nothing runs
    beyond the request's deadline."""
    asked = await life.dispatched(pool)
    deadline_ms = int((await fields(pool, asked.id))["deadline"])
    before_ms, run = (await pool.survey()).now_ms, Scripts.run

    async def run_slowly(self: Scripts, name: str, *args: bytes | str | int, **options: Any) -> Reply:
        reply = await run(self, name, *args, **options)
        await asyncio.sleep(0.1)
        return reply

    monkeypatch.setattr(Scripts, "run", run_slowly)
    started = await pool.requests.start(asked.id, asked.attempt, WORKER)
    assert started is not None
    assert started.left_ms <= deadline_ms - before_ms - 100


async def test_a_start_after_the_deadline_expires(pool: Pool) -> None:
    """An attempt that is started after the deadline does not run, and its request expires."""
    asked = await life.dispatched(pool)
    await life.pass_deadline(pool, asked.id)
    async with life.listen(pool) as ear:
        assert await pool.requests.start(asked.id, asked.attempt, WORKER) is None
        assert await ear.told(asked.id) == ["expired"]
    assert await audit(raw(pool)) == {asked.id: "expired"}


@pytest.mark.parametrize("delay_ms", [0, 60_000])
async def test_an_expired_request_says_why_its_last_attempt_ended(pool: Pool, delay_ms: int) -> None:
    """Its agent learns that from the message, whether the request waited, was delayed, or had just failed."""
    waits, fails = await life.running(pool), await life.running(pool)
    async with life.listen(pool) as ear:
        await pool.requests.requeue(waits.id, waits.attempt, WORKER, delay_ms, cause="rate_limited")
        for asked in (waits, fails):
            await life.pass_deadline(pool, asked.id)
        assert await pool.requests.requeue(fails.id, fails.attempt, WORKER, delay_ms, cause="rate_limited") == "expired"
        await pool.beats.sweep("router")
        messages = [content for _, content in await ear.heard() if content.get("type") == "expired"]
    assert {message["code"] for message in messages} == {"rate_limited"}
    assert len(messages) == 2
    assert await audit(raw(pool)) == {waits.id: "expired", fails.id: "expired"}


async def test_a_start_without_its_entry_is_lost(pool: Pool) -> None:
    """Where somebody else deleted the stream entry, the request fails as lost, and says so."""
    asked = await life.dispatched(pool)
    await raw(pool).delete(f"{PREFIX}role:planner")
    async with life.listen(pool) as ear:
        assert await pool.requests.start(asked.id, asked.attempt, WORKER) is None
        (failed,) = [content for channel, content in await ear.heard() if channel.startswith("deltas:")]
    assert (failed["type"], failed["error"]) == ("failed", {"code": "entry_deleted"})
    assert await audit(raw(pool)) == {asked.id: "failed"}


async def test_renew_keeps_what_runs(pool: Pool) -> None:
    """A beat makes leases longer and answers `mine`."""
    asked = await life.running(pool)
    await life.pass_lease(pool, asked.id)
    beat = await pool.beats.renew(WORKER, LANE, [life.hold(asked)], accepts_new_work=True)
    assert (beat.conflict, beat.lease_ms, beat.outcomes) == (None, Policy().lease_ms, ("mine",))
    assert len((await life.sweep(pool)).lapsed) == 0
    assert await audit(raw(pool)) == {asked.id: "running"}


async def test_a_first_beat_opens_the_lane(pool: Pool) -> None:
    """Routers are rung when a worker begins to accept work, and only then."""
    async with life.listen(pool) as ear:
        await life.beat(pool)
        assert [channel for channel, _ in await ear.heard()] == ["doorbell"]
        await life.beat(pool)
        await pool.beats.renew(WORKER, LANE, [], accepts_new_work=False)
        assert await ear.heard() == []
    (lane,) = (await pool.survey()).lanes
    assert (lane.name, lane.models, lane.offer.limit_of("chat"), lane.state.accepts_work, lane.credit_for("chat")) == (
        "lane1",
        ("m1", "m2"),
        2,
        False,
        0,
    )


async def test_a_lane_name_has_one_endpoint(pool: Pool) -> None:
    """A worker with another endpoint gets a conflict while other workers use the lane's name."""
    other = type(LANE)(LANE.lane, LANE.provider, "http://gpu2:8080", LANE.models, LANE.offer)
    await life.beat(pool)
    assert (await pool.beats.renew("worker2", other, [], accepts_new_work=True)).conflict == LANE.endpoint
    assert (await pool.survey()).lanes[0].endpoint == LANE.endpoint
    await pool.beats.renew(WORKER, LANE, [], accepts_new_work=False)
    assert (await pool.beats.renew("worker2", other, [], accepts_new_work=True)).conflict is None
    assert (await pool.survey()).lanes[0].endpoint == other.endpoint


@pytest.mark.parametrize("state", ["dispatched", "running"])
@pytest.mark.parametrize(("due_ms", "then"), [(0, "waiting"), (60_000, "delayed")])
async def test_requeue_gives_a_request_back(pool: Pool, state: str, due_ms: int, then: str) -> None:
    """A request given back waits again, now or after a while, and the lane has its credit again."""
    asked = await life.bring(pool, state)
    async with life.listen(pool) as ear:
        assert await pool.requests.requeue(asked.id, asked.attempt, WORKER, due_ms) == then
        assert [channel for channel, _ in await ear.heard()] == (["doorbell"] if then == "waiting" else [])
    assert await audit(raw(pool)) == {asked.id: then}
    assert (await pool.survey()).lanes[0].credit_for("chat") == LANE.offer.limit_of("chat")


async def test_a_router_decides_from_an_outdated_survey(pool: Pool) -> None:
    """A request that was dispatched and requeued since the survey, now with other needs, is neither placed nor refused
    by the needs that it had."""
    request_id = await life.submit(pool)
    surveyed = await life.head(pool, request_id)
    asked = await life.running(pool, request_id)
    needs = surveyed.queue.needs.model_copy(update={"avoid": (LANE.lane,)})
    queue = replace(surveyed.queue, needs=needs)
    assert await pool.requests.requeue(asked.id, asked.attempt, WORKER, queue=queue) == "waiting"
    assert await pool.requests.dispatch(surveyed, LANE.lane, "m1", "token") is None
    assert not await pool.requests.fail(request_id, surveyed.attempt, life.REFUSAL)
    assert await audit(raw(pool)) == {request_id: "waiting"}
    assert await life.dispatch(pool, request_id) is not None


async def test_an_attempt_that_did_not_reach_its_model_server_is_no_start(pool: Pool) -> None:
    """Given back as none, however often, it uses up no start; sent twice, it gives back one."""
    await life.bring(pool, "requeued")
    (request_id,) = await audit(raw(pool))
    for _ in range(3):
        asked = await life.running(pool, request_id)
        assert (await fields(pool, request_id))["starts"] == "2"
        for _ in range(2):
            assert await pool.requests.requeue(asked.id, asked.attempt, WORKER, counts=False) == "waiting"
        assert (await fields(pool, request_id))["starts"] == "1"
    asked = await life.dispatched(pool, request_id)
    assert await pool.requests.requeue(asked.id, asked.attempt, WORKER, counts=False) == "waiting"
    assert (await fields(pool, request_id))["starts"] == "1"


async def test_start_reports_the_wait_and_the_attempt_before(pool: Pool) -> None:
    """A worker learns since when the request has waited, which attempt ended then, why, and the context of its span."""
    first = await life.dispatched(pool)
    started = await pool.requests.start(first.id, first.attempt, WORKER)
    assert started is not None
    assert started.waited.before is None
    assert started.waited.queued_ms == started.waited_ms
    assert 0 <= started.waited.dispatched_ms <= started.waited_ms
    await pool.requests.requeue(first.id, first.attempt, WORKER, cause="provider_down", span="00-a-b-01")
    second = await life.dispatched(pool, first.id)
    again = await pool.requests.start(second.id, second.attempt, WORKER)
    assert again is not None
    assert again.waited.before is not None
    assert (again.waited.before.attempt, again.waited.before.lane) == (first.attempt, LANE.lane)
    assert (again.waited.before.code, again.waited.before.span) == ("provider_down", "00-a-b-01")
    assert again.waited.before.started_ms is not None
    assert again.waited.queued_ms <= again.waited.before.started_ms <= again.waited_ms
    await pool.requests.requeue(second.id, second.attempt, WORKER, cause="draining")
    third = await life.dispatched(pool, first.id)
    last = await pool.requests.start(third.id, third.attempt, WORKER)
    assert last is not None
    assert last.waited.before is not None
    assert (last.waited.before.attempt, last.waited.before.span) == (second.attempt, "")


@pytest.mark.parametrize("first", [None, PromptPolicy(plugin=f"sha256:{'1' * 64}")])
async def test_the_prompt_plugin_of_a_request_is_that_of_its_first_start(
    pool: Pool, first: PromptPolicy | None
) -> None:
    """A policy that changes while the request is answered counts for later requests; so does a first plugin."""
    policy = Policy(roles={ROLE: RolePolicy(prompt=first)})
    await pool.policies.write(policy)
    begun = await life.running(pool)
    changed = PromptPolicy(plugin=f"sha256:{'2' * 64}", on_error="skip")
    await pool.policies.write(Policy(roles={ROLE: RolePolicy(prompt=changed)}))
    prompts = []
    for request_id in (begun.id, None):
        if request_id is not None:
            assert await pool.requests.requeue(begun.id, begun.attempt, WORKER) == "waiting"
        asked = await life.dispatched(pool, request_id)
        started = await pool.requests.start(asked.id, asked.attempt, WORKER)
        assert started is not None
        prompts.append(started.prompt)
    assert prompts == [first, changed]


async def test_a_worker_that_gives_back_a_lost_request_learns_that(pool: Pool) -> None:
    """Its next beat would otherwise restore the request, although no worker runs it any more. Routers and agents learn
    from the sweep alone what has lapsed."""
    asked = await life.running(pool)
    await raw(pool).flushall()
    assert await pool.requests.requeue(asked.id, asked.attempt, WORKER) == "lost"
    assert await pool.requests.requeue(asked.id, asked.attempt, "") == "stale"
    assert await pool.requests.forget(asked.id, asked.attempt, WORKER) == "forgotten"


@pytest.mark.parametrize("flag", ["cancelled", "expired"])
async def test_requeue_ends_a_flagged_request(pool: Pool, flag: str) -> None:
    """A request that was cancelled, or whose deadline has passed, does not wait again."""
    asked = await life.running(pool)
    if flag == "cancelled":
        await pool.requests.cancel(asked.id)
    else:
        await life.pass_deadline(pool, asked.id)
    async with life.listen(pool) as ear:
        assert await pool.requests.requeue(asked.id, asked.attempt, WORKER) == flag
        assert await ear.told(asked.id) == [flag]
    assert await audit(raw(pool)) == {asked.id: flag}


async def test_an_end_rings_the_routers_if_a_request_waits(pool: Pool) -> None:
    """When a request ends while another waits, the routers' doorbell rings."""
    asked = await life.running(pool)
    await life.submit(pool)
    async with life.listen(pool) as ear:
        assert await pool.requests.finish(asked.id, asked.attempt, WORKER, "completed", 0, "", b'{"type":"told"}')
        assert sorted(channel for channel, _ in await ear.heard()) == [f"deltas:{asked.id}", "doorbell"]


@pytest.mark.parametrize("ending", life.ENDED)
async def test_finish_ends_a_running_request(pool: Pool, ending: Ending) -> None:
    """The worker's ending is the request's: told once, kept for an hour, everything else gone."""
    asked = await life.running(pool)
    async with life.listen(pool) as ear:
        assert await pool.requests.finish(asked.id, asked.attempt, WORKER, ending, 7, "timeout", b'{"type":"told"}')
        heard = await ear.heard()
    assert [channel for channel, _ in heard] == [f"deltas:{asked.id}"]
    assert await audit(raw(pool)) == {asked.id: ending}
    (status,) = (await pool.beats.check(CLIENT, [asked.id])).statuses
    assert (status.state, status.end, status.code, status.worker) == (ending, 7, "timeout", WORKER)
    assert await raw(pool).ttl(f"{PREFIX}request:{asked.id}") > 3500
    assert await raw(pool).xlen(f"{PREFIX}failed") == (1 if ending == "failed" else 0)


@pytest.mark.parametrize("state", ["waiting", "delayed", "requeued"])
async def test_a_router_fails_a_waiting_request(pool: Pool, state: str) -> None:
    """A router fails a waiting request that no lane can run."""
    asked = await life.bring(pool, state)
    async with life.listen(pool) as ear:
        assert await pool.requests.fail(asked.id, asked.attempt, life.REFUSAL)
        assert await ear.told(asked.id) == ["failed"]
    assert await audit(raw(pool)) == {asked.id: "failed"}
    ((_, entry),) = await raw(pool).xrange(f"{PREFIX}failed")
    assert (entry[b"id"].decode(), entry[b"code"]) == (asked.id, b"model_not_found")


@pytest.mark.parametrize("state", ["waiting", "delayed", "dispatched"])
async def test_cancel_ends_a_request_that_does_not_run(pool: Pool, state: str) -> None:
    """A waiting, delayed or dispatched request is cancelled at once."""
    asked = await life.bring(pool, state)
    async with life.listen(pool) as ear:
        assert await pool.requests.cancel(asked.id) == "cancelled"
        assert await ear.told(asked.id) == ["cancelled"]
    assert await audit(raw(pool)) == {asked.id: "cancelled"}


async def test_cancel_flags_a_running_request(pool: Pool) -> None:
    """A running request is flagged and its worker told, at once and with every beat; the worker ends it."""
    asked = await life.running(pool)
    async with life.listen(pool) as ear:
        assert await pool.requests.cancel(asked.id) == "flagged"
        told = {"v": 1, "type": "cancel", "id": asked.id, "attempt": asked.attempt, "reason": "cancelled"}
        assert await ear.heard() == [(f"control:{WORKER}", told)]
    assert await audit(raw(pool)) == {asked.id: "running"}
    assert await life.beat(pool, WORKER, LANE, life.hold(asked)) == ("cancelled",)
    assert await life.finish(pool, asked, "cancelled")
    assert await audit(raw(pool)) == {asked.id: "cancelled"}


async def test_a_flag_is_not_changed(pool: Pool) -> None:
    """A request that has expired while it runs stays expired when it is cancelled too."""
    asked = await life.running(pool)
    await life.pass_deadline(pool, asked.id)
    await life.sweep(pool)
    async with life.listen(pool) as ear:
        assert await pool.requests.cancel(asked.id) == "flagged"
        ((_, told),) = await ear.heard()
    assert told["reason"] == "expired"
    assert await life.beat(pool, WORKER, LANE, life.hold(asked)) == ("expired",)


async def test_check_returns_the_states_of_requests(pool: Pool) -> None:
    """A client's beat keeps it alive, and returns the states of its requests and the numbers of routers and lanes."""
    waits, runs = await life.submit(pool), await life.running(pool)
    await pool.beats.sweep("host/router1")
    await life.vanish(pool)
    checked = await pool.beats.check(CLIENT, [waits, runs.id, "0" * 32])
    assert (checked.routers, checked.known_lanes) == (1, 1)
    assert [status.state for status in checked.statuses] == ["waiting", "running", "missing"]
    assert checked.statuses[1].attempt == runs.attempt
    assert checked.statuses[1].worker == WORKER
    await life.sweep(pool)
    assert await audit(raw(pool)) == {waits: "waiting", runs.id: "running"}


async def test_the_whole_life_leaves_nothing(pool: Pool) -> None:
    """After submit, dispatch, start, requeue, dispatch, start and finish only the ended request is left."""
    asked = await life.running(pool)
    await pool.requests.requeue(asked.id, asked.attempt, WORKER)
    again = await life.running(pool, asked.id)
    assert await life.finish(pool, again)
    await pool.beats.leave(CLIENT)
    assert await audit(raw(pool)) == {asked.id: "completed"}
    left = {key.removeprefix(PREFIX) for key in await life.dump(raw(pool)) if not key.startswith("ttl ")}
    lane = {"lanes", "lane:lane1:state", "lane:lane1:workers", "workers"}
    measured = {key for key in left if key.startswith(("rates:", "drain:"))}  # which expire
    assert left - lane - measured == {f"request:{asked.id}", "sequence"}
    assert (await fields(pool, asked.id))["starts"] == "2"


async def test_leaving_cancels_the_requests_of_a_client(pool: Pool) -> None:
    """The next sweep removes a client that has left, and cancels its requests."""
    waits = await life.submit(pool)
    await pool.beats.leave(CLIENT)
    await audit(raw(pool))
    await life.sweep(pool)
    assert await audit(raw(pool)) == {waits: "cancelled"}
    assert await raw(pool).zcard(f"{PREFIX}clients") == 0


async def test_the_job_is_what_arq_reads(pool: Pool) -> None:
    """ARQ's job names the function, the id and the attempt in JSON, and holds nothing else of the request."""
    asked: Asked = await life.dispatched(pool)
    text = await raw(pool).get(f"{{main}}:arq:job:{{main}}{asked.id}:{asked.attempt}")
    assert text is not None
    job = json.loads(text)
    assert job.keys() == {"t", "f", "a", "k", "et"}
    assert (job["f"], job["a"], job["k"]) == ("run_request", [asked.id, asked.attempt], {})


async def test_a_worker_on_trial_lowers_the_limit_of_its_lane_only_if_it_serves_it_alone(pool: Pool) -> None:
    """It says why it takes fewer requests than it could. Another worker's limit stands meanwhile."""
    trial, narrow = ServerCondition(LaneState.UP, "5 of 5 failed"), replace(LANE, offer=chats(1))
    for others, limit in ((0, 1), (1, LANE.offer.limit_of("chat"))):
        for number in range(others):
            await pool.beats.renew(f"other{number}", LANE, [], accepts_new_work=True)
        await pool.beats.renew(WORKER, narrow, [], accepts_new_work=True, condition=trial)
        (seen,) = (await pool.survey()).lanes
        assert (seen.state, seen.offer.limit_of("chat"), seen.credit_for("chat")) == ("up", limit, limit)
    await audit(raw(pool))


async def test_what_a_lane_serves_while_its_model_server_is_away(pool: Pool) -> None:
    """What waits is not refused for want of models that a worker does not know yet, and a worker that cannot reach the
    model server takes nothing back of what another says of it."""
    unseen, down = replace(LANE, models=(), offer=chats(1)), ServerCondition(LaneState.DOWN, "it is off")
    await pool.beats.renew(WORKER, LANE, [], accepts_new_work=True)
    named = replace(LANE, models=("m9",), offer=chats(1))
    for worker, lane in (("worker2", unseen), ("worker2", named)):
        await pool.beats.renew(worker, lane, [], accepts_new_work=True, condition=down)
        (seen,) = (await pool.survey()).lanes
        assert (seen.state, seen.models, seen.offer.limit_of("chat")) == (
            "up",
            LANE.models,
            LANE.offer.limit_of("chat"),
        )
    await pool.beats.renew(WORKER, unseen, [], accepts_new_work=True, condition=down)
    (seen,) = (await pool.survey()).lanes
    assert (seen.state, seen.why, seen.models, seen.credit_for("chat")) == ("down", "it is off", LANE.models, 0)
    await pool.beats.renew(WORKER, named, [], accepts_new_work=True)
    (seen,) = (await pool.survey()).lanes
    assert (seen.state, seen.models, seen.offer.limit_of("chat")) == ("up", ("m9",), 1)
    await audit(raw(pool))


async def test_a_worker_learns_that_nobody_received_the_end(pool: Pool) -> None:
    """An ending that is repeated may have been received or not, as far as the server knows."""
    asked, other = await life.running(pool), await life.running(pool)
    async with life.listen(pool):
        for reply in ("done", "missed"):
            assert await pool.requests.finish(asked.id, asked.attempt, WORKER, "completed", 0, "", b"{}") == reply
    while await raw(pool).publish(f"{PREFIX}nobody", b""):  # the server learns a moment later that nobody listens
        await asyncio.sleep(0.01)
    assert await pool.requests.finish(other.id, other.attempt, WORKER, "completed", 0, "", b"{}") == "missed"
    assert await pool.requests.finish(other.id, other.attempt - 1, WORKER, "completed", 0, "", b"{}") is None
