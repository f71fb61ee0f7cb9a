"""Arrows that must be refused, and every script sent twice: the key space stays as it was."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from tests.integration import life
from tests.integration.life import CLIENT, ENDED, LANE, PREFIX, ROUTER, WORKER, Asked, audit, raw

from tokenlane.routing.contract.errors import Duplicate, QueueFull, RequestCancelled, RequestLost
from tokenlane.routing.decide.lanes.offer import ServerFailure
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot

pytestmark = pytest.mark.many_commands

Call = Callable[[Pool, Asked], Awaitable[object]]

_STATES = ("waiting", "delayed", "requeued", "dispatched", "running", "flagged", *ENDED)


def outdated(asked: Asked) -> int:
    """An attempt before the request's."""
    return max(asked.attempt - 1, 0)


# Each: its name, the states it is refused in, the call, what it answers.
REFUSED: list[tuple[str, tuple[str, ...], Call, object]] = [
    ("dispatch", _STATES[1:2] + _STATES[3:], lambda pool, it: life.dispatch(pool, it.id), None),
    ("start", (*_STATES[:3], *ENDED), lambda pool, it: _start(pool, it), None),
    ("start old", _STATES[1:], lambda pool, it: pool.requests.start(it.id, outdated(it), WORKER), None),
    (
        "start by another",
        ("running", "flagged", *ENDED),
        lambda pool, it: pool.requests.start(it.id, it.attempt, "w2"),
        None,
    ),
    (
        "requeue",
        ("waiting", *ENDED),
        lambda pool, it: pool.requests.requeue(it.id, it.attempt, WORKER),
        "stale",
    ),
    ("requeue old", _STATES, lambda pool, it: pool.requests.requeue(it.id, it.attempt - 1, WORKER), "stale"),
    (
        "requeue another's",
        ("running", "flagged"),
        lambda pool, it: pool.requests.requeue(it.id, it.attempt, "w2"),
        "stale",
    ),
    ("requeue what has not lapsed", ("waiting", "dispatched", "running", "flagged", *ENDED),
     lambda pool, it: pool.requests.requeue(it.id, it.attempt, ""), "stale"),
    ("refuse what has not lapsed", ("delayed", "requeued", "dispatched", "running", "flagged", *ENDED),
     lambda pool, it: pool.requests.fail(it.id, it.attempt, life.REFUSAL, lapsed=True), False),
    ("refuse what has lapsed, by an old attempt", ("lapsed",),
     lambda pool, it: pool.requests.fail(it.id, it.attempt - 1, life.REFUSAL, lapsed=True), False),
    ("finish", _STATES[:4], lambda pool, it: life.finish(pool, it), False),
    ("finish old", _STATES[1:], lambda pool, it: life.finish(pool, Asked(it.id, outdated(it))), False),
    ("finish another's", _STATES[1:], lambda pool, it: life.finish(pool, Asked(it.id, it.attempt, "w2")), False),
    ("finish otherwise", ENDED[1:], lambda pool, it: life.finish(pool, it, "completed"), False),
    (
        "refuse",
        ("dispatched", "running", "flagged", *ENDED),
        lambda pool, it: pool.requests.fail(it.id, it.attempt, life.REFUSAL),
        False,
    ),
    ("renew old", _STATES[1:], lambda pool, it: _renew(pool, WORKER, Asked(it.id, outdated(it))), ("stale",)),
    ("renew another's", _STATES[1:], lambda pool, it: _renew(pool, "w2", it), ("stale",)),
    ("renew", ("waiting", "requeued", "delayed", "dispatched", *ENDED), lambda pool, it: _renew(pool, WORKER, it),
     ("stale",)),
    ("cancel", ("completed", "failed", "expired"), lambda pool, it: pool.requests.cancel(it.id), "ended"),
    ("cancel another's", _STATES[:5], lambda pool, it: pool.requests.cancel(it.id, "client2"), "kept"),
    ("cancel another's ended", ENDED[:2], lambda pool, it: pool.requests.cancel(it.id, "client2"), "ended"),
    ("attach", ("flagged", *ENDED), lambda pool, it: _attach(pool, it), CLIENT),
    ("attach one's own", _STATES, lambda pool, it: _attach(pool, it, CLIENT), CLIENT),
    ("submit", _STATES, lambda pool, it: _submit_again(pool, it, floor=it.attempt - 1), True),
    ("submit with a floor", tuple(state for state in _STATES if state != "completed"),
     lambda pool, it: _submit_again(pool, it), True),
    ("submit another's", _STATES, lambda pool, it: _submit_again(pool, it, "client2"), True),
]  # fmt: skip


async def _start(pool: Pool, asked: Asked) -> object:
    return await pool.requests.start(asked.id, asked.attempt, WORKER)


async def _renew(pool: Pool, worker: str, asked: Asked) -> object:
    return (await pool.beats.renew(worker, LANE, [life.hold(asked)], accepts_new_work=True)).outcomes


async def _attach(pool: Pool, asked: Asked, client: str = "w2") -> object:
    return (await pool.requests.attach(client, asked.id)).status.owner


async def _renew_registered(pool: Pool) -> object:
    await pool.beats.register(WORKER, LANE.lane, life.FACTS)
    fault = ServerFailure("timeout", asyncio.get_running_loop().time())
    return await pool.beats.renew(WORKER, LANE, [], accepts_new_work=True, fault=fault)


async def _shape(pool: Pool) -> object:
    """What of a snapshot does not change with time."""
    seen = await take_snapshot(pool)
    return [role.running for role in seen.roles], [(lane.state, lane.chats.running) for lane in seen.lanes]


async def _check(pool: Pool, asked: Asked) -> object:
    """What the client is told of the request; how long its lease lasts is another time each time."""
    (status,) = (await pool.beats.check(CLIENT, [asked.id], held=1)).statuses
    return replace(status, lapses_ms=None)


async def _submit_again(pool: Pool, asked: Asked, client: str = CLIENT, floor: int = 10**13) -> object:
    return await pool.requests.submit(life.envelope(asked.id, client=client), b"other", floor=floor) == asked.id


@pytest.mark.parametrize(
    ("state", "call", "answer"),
    [
        pytest.param(state, call, answer, id=f"{name}: {state}")
        for name, states, call, answer in REFUSED
        for state in states
    ],
)
async def test_a_refused_step_changes_nothing(pool: Pool, state: str, call: Call, answer: object) -> None:
    """A refused call returns that, publishes nothing, and leaves every key as it was."""
    asked = await life.bring(pool, state)
    await life.beat(pool, "w2")
    before = await life.snapshot(raw(pool))
    async with life.listen(pool) as ear:
        assert await call(pool, asked) == answer
        assert await ear.heard() == []
    assert await life.snapshot(raw(pool)) == before
    await audit(raw(pool))


@pytest.mark.parametrize("why", ["no such lane", "no worker", "draining", "silent", "no credit", "expired"])
async def test_dispatch_is_refused(pool: Pool, why: str) -> None:
    """A closed lane or one without credit gets no request, and no request is dispatched after its deadline."""
    request_id = await life.submit(pool)
    if why == "no credit":
        for _ in range(LANE.offer.limit_of("chat")):
            await life.dispatched(pool)
    elif why != "no such lane":
        await life.beat(pool)
    if why == "no worker":
        await raw(pool).delete(f"{PREFIX}lane:lane1:workers")
    elif why == "draining":
        await pool.beats.renew(WORKER, LANE, [], accepts_new_work=False)
    elif why == "silent":
        await raw(pool).zadd(f"{PREFIX}lane:lane1:workers", {WORKER: 1})
    elif why == "expired":
        await life.pass_deadline(pool, request_id)
    before = await life.snapshot(raw(pool))
    assert await life.dispatch(pool, request_id) is None
    assert await life.snapshot(raw(pool)) == before
    assert (await audit(raw(pool)))[request_id] == "waiting"


@pytest.mark.parametrize(
    "call",
    [
        lambda pool, it: pool.requests.start(it.id, it.attempt, WORKER),
        lambda pool, it: pool.requests.requeue(it.id, it.attempt, WORKER),
        lambda pool, it: life.finish(pool, it),
        lambda pool, it: pool.requests.fail(it.id, it.attempt, life.REFUSAL),
        lambda pool, it: pool.requests.cancel(it.id, "client2"),
        lambda pool, it: pool.beats.check(CLIENT, [it.id]),
        lambda pool, it: pool.requests.attach(CLIENT, it.id),
    ],
)
async def test_unknown_requests_change_nothing(pool: Pool, call: Call) -> None:
    """Whatever is asked of a request the server does not know, it makes no key; only that it was cancelled is kept, for
    a minute."""
    await pool.beats.check(CLIENT)
    with suppress(RequestLost):
        await call(pool, Asked("0" * 32, 1))
    kept = {key for key in await life.dump(raw(pool)) if "unwanted:" not in key}
    assert kept == {f"{PREFIX}clients", f"{PREFIX}swept"}


@pytest.mark.parametrize("leaving", ["", CLIENT])
async def test_a_request_cancelled_before_it_arrives_is_refused(pool: Pool, leaving: str) -> None:
    """A request that was cancelled before it came is refused when it does, once or again, and leaves nothing."""
    envelope = life.envelope()
    for _ in range(2):
        assert await pool.requests.cancel(envelope.id, leaving) == "unknown"
    for _ in range(2):
        with pytest.raises(RequestCancelled):
            await pool.requests.submit(envelope, b"")
    assert await audit(raw(pool)) == {}
    mark = f"{PREFIX}unwanted:{envelope.id}"
    assert 0 < await raw(pool).pttl(mark) <= 60_000
    assert {key for key in await life.dump(raw(pool)) if not key.startswith("ttl ")} == {mark}


async def test_a_client_gives_up_only_what_it_has_sent(pool: Pool) -> None:
    """Who attaches to a request that the server has lost, and leaves, keeps nobody from sending or running it again."""
    lost = life.envelope()
    assert await pool.requests.cancel(lost.id, "another") == "unknown"
    assert await pool.requests.submit(lost, b"") == lost.id
    runs = await life.running(pool)
    await raw(pool).flushall()
    assert await pool.requests.cancel(runs.id, "another") == "unknown"
    assert await life.beat(pool, WORKER, LANE, life.hold(runs)) == ("mine",)
    await audit(raw(pool))


# Each: its name, the state before, the call.
TWICE: list[tuple[str, str, Call]] = [
    ("dispatch", "waiting", lambda pool, it: life.dispatch(pool, it.id, token="the same")),
    ("dispatch again", "requeued", lambda pool, it: life.dispatch(pool, it.id, token="the same")),
    ("requeue dispatched", "dispatched", lambda pool, it: pool.requests.requeue(it.id, it.attempt, WORKER)),
    ("requeue", "running", lambda pool, it: pool.requests.requeue(it.id, it.attempt, WORKER)),
    ("requeue as no start", "running", lambda pool, it: pool.requests.requeue(it.id, it.attempt, WORKER, counts=False)),
    ("requeue later", "running", lambda pool, it: pool.requests.requeue(it.id, it.attempt, WORKER, 60_000)),
    ("requeue what has lapsed", "lapsed", lambda pool, it: pool.requests.requeue(it.id, it.attempt, "")),
    (
        "refuse what has lapsed",
        "lapsed",
        lambda pool, it: pool.requests.fail(it.id, it.attempt, life.REFUSAL, lapsed=True),
    ),
    ("requeue flagged", "flagged", lambda pool, it: pool.requests.requeue(it.id, it.attempt, WORKER)),
    *((f"finish {end}", "running", lambda pool, it, end=end: life.finish(pool, it, end)) for end in ENDED),
    ("refuse", "waiting", lambda pool, it: pool.requests.fail(it.id, it.attempt, life.REFUSAL)),
    ("refuse delayed", "delayed", lambda pool, it: pool.requests.fail(it.id, it.attempt, life.REFUSAL)),
    *((f"cancel {state}", state, lambda pool, it: pool.requests.cancel(it.id)) for state in _STATES),
    ("renew", "running", lambda pool, it: pool.beats.renew(WORKER, LANE, [life.hold(it)], accepts_new_work=True)),
    (
        "renew draining",
        "running",
        lambda pool, it: pool.beats.renew(WORKER, LANE, [life.hold(it)], accepts_new_work=False),
    ),
    ("renew with an error", "running", lambda pool, it: _renew_registered(pool)),
    ("register", "running", lambda pool, it: pool.beats.register(WORKER, LANE.lane, life.FACTS)),
    ("bury", "running", lambda pool, it: pool.beats.bury(WORKER)),
    ("bury one that runs nothing", "running", lambda pool, it: pool.beats.bury("worker2")),
    ("check", "running", lambda pool, it: _check(pool, it)),
    ("check of what has lapsed", "lapsed", lambda pool, it: _check(pool, it)),
    ("cancel what is not known", "running", lambda pool, it: pool.requests.cancel("0" * 32)),
    *((f"cancel leaving {state}", state, lambda pool, it: pool.requests.cancel(it.id, CLIENT)) for state in _STATES),
    *((f"attach {state}", state, lambda pool, it: _attach(pool, it)) for state in _STATES),
    ("leave", "running", lambda pool, it: pool.beats.leave(CLIENT)),
    ("leave ended", "completed", lambda pool, it: pool.beats.leave(CLIENT)),
    ("drop", "failed", lambda pool, it: pool.records.drop_failed([it.id])),
    ("snapshot", "running", lambda pool, it: _shape(pool)),
    ("rank by a revision", "running", lambda pool, it: pool.beats.sweep(ROUTER, rank_only=True, revision=3)),
    ("rank", "running", lambda pool, it: pool.beats.sweep(ROUTER, rank_only=True)),
]


@pytest.mark.parametrize(("state", "call"), [pytest.param(*rest, id=name) for name, *rest in TWICE])
async def test_a_script_sent_twice_answers_twice(pool: Pool, state: str, call: Call) -> None:
    """The second time a call answers as the first time and changes nothing; an agent is told once."""
    asked = await life.bring(pool, state)
    async with life.listen(pool) as ear:
        first = await call(pool, asked)
        after = await life.snapshot(raw(pool), leases=False)
        assert await call(pool, asked) == first
        assert len(await ear.told(asked.id)) <= 1
    assert await life.snapshot(raw(pool), leases=False) == after
    await audit(raw(pool))


async def test_a_submission_sent_twice_is_one(pool: Pool) -> None:
    """The second submission of an id is accepted as the first was, and changes nothing."""
    envelope = life.envelope()
    first = await pool.requests.submit(envelope, b"")
    after = await life.snapshot(raw(pool))
    assert await pool.requests.submit(envelope, b"") == first
    assert await life.snapshot(raw(pool)) == after


@pytest.mark.parametrize("state", ["waiting", "completed"])
async def test_an_idempotency_key_submitted_twice(pool: Pool, state: str) -> None:
    """A submission that finds its key taken answers alike both times, and changes nothing; nor does its first one,
    sent again."""
    first, second = (life.envelope().model_copy(update={"idempotency": "ab" * 16}) for _ in range(2))
    accepted = await pool.requests.submit(first, b"")
    if state == "completed":
        await life.finish(pool, await life.running(pool, first.id))
    before = await life.snapshot(raw(pool))
    assert await pool.requests.submit(first, b"") == accepted
    for _ in range(2):
        if state == "waiting":
            assert await pool.requests.submit(second, b"") == accepted
        else:
            with pytest.raises(Duplicate, match=f"completed.*{first.id}"):
                await pool.requests.submit(second, b"")
    assert await life.snapshot(raw(pool)) == before
    await audit(raw(pool))


async def test_a_taken_key_needs_no_room(pool: Pool) -> None:
    """A key that is taken is known on a server that takes nothing new: over a limit, or out of memory."""
    first, second = (life.envelope().model_copy(update={"idempotency": "ab" * 16}) for _ in range(2))
    await pool.policies.write(Policy(depth=1))
    accepted = await pool.requests.submit(first, b"")
    assert await pool.requests.submit(second, b"") == accepted
    with pytest.raises(QueueFull):
        await life.submit(pool)
    await raw(pool).config_set("maxmemory", "1")
    try:
        assert await pool.requests.submit(second, b"") == accepted
        with pytest.raises(QueueFull):
            await life.submit(pool, second.model_copy(update={"idempotency": "cd" * 16}))
        assert (await pool.requests.attach("client2", first.id)).status.owner == "client2"
    finally:
        await raw(pool).config_set("maxmemory", "0")
    assert await audit(raw(pool)) == {first.id: "waiting"}


async def test_a_key_of_a_forgotten_request_is_free(pool: Pool) -> None:
    """An idempotency key whose request the server has forgotten can be used again."""
    first, second = (life.envelope().model_copy(update={"idempotency": "ab" * 16}) for _ in range(2))
    await pool.requests.submit(first, b"")
    await life.finish(pool, await life.running(pool, first.id))
    await raw(pool).delete(f"{PREFIX}request:{first.id}")
    assert await pool.requests.submit(second, b"") == second.id


async def test_a_start_sent_twice_is_one(pool: Pool) -> None:
    """The second start by the same worker gives the same to run, and counts no second start."""
    asked = await life.dispatched(pool)
    first = await pool.requests.start(asked.id, asked.attempt, WORKER)
    after = await life.snapshot(raw(pool), leases=False)
    second = await pool.requests.start(asked.id, asked.attempt, WORKER)
    assert first is not None
    assert second is not None
    assert second.left_ms <= first.left_ms
    same = [(it.envelope, it.payload, it.model, it.starts, it.waited_ms, it.cancelled) for it in (first, second)]
    assert same[0] == same[1]
    assert await life.snapshot(raw(pool), leases=False) == after


async def test_a_dispatch_sent_again_after_the_start(pool: Pool) -> None:
    """A dispatch whose answer was lost is still known for the same one while its attempt runs."""
    request_id = await life.submit(pool)
    await life.beat(pool)
    attempt = await life.dispatch(pool, request_id, token="the same")
    assert attempt is not None
    await pool.requests.start(request_id, attempt, WORKER)
    assert await life.dispatch(pool, request_id, token="the same") == attempt
    assert await audit(raw(pool)) == {request_id: "running"}


async def test_a_second_sweep_finds_less(pool: Pool) -> None:
    """A sweep sent twice does its work once; only the counts differ."""
    asked = await life.running(pool)
    await life.pass_lease(pool, asked.id)
    assert len((await life.sweep(pool)).lapsed) == 1
    after = await life.snapshot(raw(pool))
    assert len((await life.sweep(pool)).lapsed) == 0
    assert await life.snapshot(raw(pool)) == after


async def test_an_envelope_that_cannot_be_read_is_started_by_nobody(pool: Pool) -> None:
    """What another version has written is an error to none who starts it: it is left to its lease."""
    await life.open_lane(pool)
    request_id = life.envelope().id
    fields = (request_id, "planner", "planner:chat:normal:1::", "agent1", CLIENT, "chat", 60_000, 0)
    await pool.scripts.run("submit", *fields, b'{"v":2,"id":"\\u0007"}', b"{}", "", "")
    attempt = await life.dispatch(pool, request_id)
    assert attempt is not None
    assert await pool.requests.start(request_id, attempt, WORKER) is None
    assert await life.state_of(pool, request_id) == "running"


async def test_an_offer_that_cannot_be_read_is_that_of_a_lane_for_chats(pool: Pool) -> None:
    """A newer worker's words about its lane end no older router."""
    await life.open_lane(pool)
    await raw(pool).hset(f"{PREFIX}lane:{LANE.lane}:state", "offer", '{"limits": {"embed": "some"}}')
    (lane,) = (await pool.survey()).lanes
    assert (lane.offer, lane.state.accepts_work) == (LANE.offer, True)
