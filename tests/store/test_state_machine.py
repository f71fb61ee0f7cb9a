"""Agents, routers, workers and operators call the scripts in random order; calls come late, twice or not at all.

After every call, `Witness` compares all requests with those before; after every rule, the whole key space is audited.
The changes of state that were seen are compared with the table in docs/architecture.md.

Every run takes the same steps, since the scripts' clock stands still between them. TOKENLANE_MACHINE_EXAMPLES=N takes
other steps, in N examples.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Final, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.integration import life
from tests.integration.life import ENDED, LIVE, PREFIX, raw
from tests.store import stopped_clock
from tests.store.states import CHANGES
from tests.store.witness import Witness

from tokenlane.routing.carry_out_recovery import recover
from tokenlane.routing.contract.envelope import Envelope, Needs, Quota
from tokenlane.routing.contract.errors import (
    Duplicate,
    LlmError,
    PoolKeyMismatch,
    ProviderDown,
    QueueFull,
    RequestCancelled,
    RequestLost,
    Timeout,
)
from tokenlane.routing.contract.messages import Failed
from tokenlane.routing.contract.wire import Kind, Priority
from tokenlane.routing.decide.lanes.offer import Announcement, Offer, Running
from tokenlane.routing.decide.lanes.state import UP, LaneState, ServerCondition
from tokenlane.routing.decide.plan import plan
from tokenlane.routing.decide.policy import Limits, Policy, RolePolicy
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.decide.recovery import (
    AttemptFailed,
    Cause,
    End,
    History,
    TryAgain,
    WorkerDraining,
    decide,
    decide_without_budget,
    decide_without_handover,
)
from tokenlane.routing.decide.role_fairness import Head
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.store.replies.claim import ClaimedAttempt
from tokenlane.routing.store.replies.lapsed import LapsedAttempt
from tokenlane.routing.store.request_life import Ending

T = TypeVar("T")

ROLES, AGENTS, CLIENTS, ROUTERS = (
    ("planner", "coder"),
    ("agent1", "agent2"),
    ("client1", "client2"),
    ("host1/a", "host2/b"),
)
LANE1 = Announcement("lane1", "sim", "http://gpu1:8080", ("m1", "m2"), Offer(limits={"chat": 2, "command": 1}))
LANE2 = Announcement("lane2", "sim", "http://gpu2:8080", ("m1",), Offer(limits={"chat": 1}))
LANES: Final = (LANE1, LANE1, LANE2)
"""The lanes of the three workers."""

POLICIES: Final = (
    Policy(),
    Policy(max_crashes=1, depth=3, lease_ms=3_000),
    Policy(max_crashes=2, max_starts=2, in_flight=3),
    Policy(start_lease_ms=500, orphan_ms=8_000, roles={"coder": RolePolicy(weight=2, limits=Limits(depth=1))}),
)
STEP_MS, HOUR_MS = 2_500, 3_600_000

_EXAMPLES = os.environ.get("TOKENLANE_MACHINE_EXAMPLES")

picks = st.integers(0, 2**16)
workers = st.integers(0, len(LANES) - 1)
states = st.sampled_from(LIVE)


@dataclass(frozen=True)
class Held:
    """An attempt that a worker runs."""

    claim: ClaimedAttempt
    lane: Announcement

    def running(self) -> Running:
        it = self.claim.envelope
        return Running(it.id, self.claim.attempt, it.client, it.agent, it.role, it.kind, self.claim.left_ms)


class Machine(RuleBasedStateMachine):
    """A pool with two lanes, three workers, two routers and two agents.

    All examples share `pool`, `loop`, `witness` and `ear`. `lost`: the live requests that the server has lost. `ends`:
    how many last messages the agents got for each request. `held`: what each worker runs. `heads`, `jobs` and `lapsed`:
    what routers and workers have learned from the server, which may be outdated.
    """

    pool: Pool
    loop: asyncio.AbstractEventLoop
    witness: Witness
    ear: life.Ear

    def __init__(self) -> None:
        super().__init__()
        if (
            _EXAMPLES is None
        ):  # each example of a long run leaves some rules out, so that it takes the others more often
            choice: Any = self._rules_strategy
            choice.enabled_rules_strategy = st.just(SimpleNamespace(is_enabled=lambda _: True))
        self.is_sound = True
        self.policy = Policy()
        self.key = ""
        self.envelopes: dict[str, Envelope] = {}
        self.lost: set[str] = set()
        self.ends: Counter[str] = Counter()
        self.generations = [0] * len(LANES)
        self.held: dict[str, dict[str, Held]] = defaultdict(dict)
        self.heads: list[Head] = []
        self.jobs: list[tuple[str, int, str]] = []
        self.lapsed: list[LapsedAttempt] = []
        self.tokens = 0
        self.now_ms = 0
        self.sent_ms: list[tuple[int, int]] = []
        self.witness.requests.clear()
        self.witness.sent.clear()
        self.witness.resubmitted.clear()
        self.witness.twice = False
        self.run(self._begin())

    def run(self, steps: Coroutine[Any, Any, T]) -> T:
        """Run one rule to its end."""
        try:
            return self.loop.run_until_complete(steps)
        except BaseException:
            self.is_sound = False
            raise

    async def _begin(self) -> None:
        await self.redis.flushall()
        self.pool.keychain.learn("")
        await stopped_clock.start(self.redis)
        self.now_ms = await stopped_clock.now_ms(self.redis)
        await self.ear.heard()
        for worker in range(len(LANES)):
            await self._beat(worker)

    @property
    def redis(self) -> Any:
        return raw(self.pool)

    def name(self, worker: int) -> str:
        """The name of the process that is this worker now."""
        return f"worker{worker}.{self.generations[worker]}"

    # Agents.

    @initialize(
        twice=st.booleans(),
        requests=st.lists(st.tuples(st.sampled_from(ROLES), st.sampled_from(AGENTS)), min_size=3, max_size=6),
        starts=st.booleans(),
    )
    def begin(self, twice: bool, requests: list[tuple[str, str]], starts: bool) -> None:
        """Some requests wait, are dispatched and run. If `twice`, every call of a script is sent twice."""
        self.run(self._pass_time(Policy().lease_ms + 2 * STEP_MS, "alive"))  # from now on leases lapse
        self.witness.twice = twice
        for role, agent in requests:
            self.run(self._submit(self._envelope(role, agent)))
        self.run(self._work() if starts else self._route())

    @rule(
        role=st.sampled_from(ROLES),
        agent=st.sampled_from(AGENTS),
        priority=st.sampled_from(("high", "normal")),
        kind=st.sampled_from(("chat", "chat", "chat", "command")),
        model=st.sampled_from((None, None, "m1", "m2", "m9")),
        time_to_live_ms=st.sampled_from((600_000, 3_000)),
        idempotency=st.sampled_from((None, None, "ab" * 16, "cd" * 16)),
        key=st.sampled_from(("", "", "", "k1")),
        quota=st.sampled_from((None, None, Quota(name="ci", in_flight=2))),
    )
    def submit(
        self,
        role: str,
        agent: str,
        priority: Priority,
        kind: Kind,
        model: str | None,
        time_to_live_ms: int,
        idempotency: str | None,
        key: str,
        quota: Quota | None,
    ) -> None:
        envelope = self._envelope(
            role,
            agent,
            kind=kind,
            priority=priority,
            needs=Needs(model=model, size=64),
            time_to_live_ms=time_to_live_ms,
            idempotency=idempotency,
            key_id=key or self.key or None,
            quota=quota,
        )
        self.run(self._submit(envelope))

    def _envelope(self, role: str, agent: str, **more: Any) -> Envelope:
        """A new request. The agent's first client owns it."""
        request_id = f"{len(self.envelopes) + 1:032x}"
        envelope = Envelope(id=request_id, client=f"client{agent[-1]}", agent=agent, role=role, **more)
        self.envelopes[request_id] = envelope
        self.witness.requests.append(request_id)
        return envelope

    @precondition(lambda self: self.envelopes)
    @rule(pick=picks, floor=st.booleans())
    def submit_again(self, pick: int, floor: bool) -> None:
        """An agent sends a request again, because no reply came, because the server has lost it, or because the agent
        lacks the end of its answer."""
        envelope = self.envelopes[self._pick([*self.lost] or [*self.envelopes], pick)]
        if envelope.id in self.lost or self.run(self._known(envelope.id)):
            self.run(self._submit(envelope, self._attempt_of(envelope.id) if floor else 0))

    async def _submit(self, envelope: Envelope, floor: int = 0) -> None:
        before = await self.witness.fields()
        live = [fields for fields in before.values() if fields["state"] in LIVE]
        depth, in_flight = self._limits(envelope.role)
        is_full = sum(it["role"] == envelope.role and it["entry"] != "" for it in live) >= depth
        is_full = is_full or sum(it["agent"] == envelope.agent for it in live) >= in_flight
        if envelope.quota is not None:
            counted = sum(it.get("quota") == envelope.quota.name for it in live)
            is_full = is_full or counted >= envelope.quota.in_flight
        self.key = (await self.redis.get(f"{PREFIX}key") or b"").decode()
        is_key_wrong = self.key not in ("", envelope.key_id or "")
        resubmitted = self.witness.resubmitted[envelope.id]
        try:
            accepted = await self.pool.requests.submit(envelope, life.PAYLOAD, floor)
        except QueueFull:
            assert is_full
            return
        except PoolKeyMismatch:
            assert is_key_wrong
            return
        except (Duplicate, RequestCancelled):
            return
        self.lost.discard(accepted)
        assert accepted == envelope.id or before[accepted]["state"] in LIVE
        is_new = envelope.id not in before or self.witness.resubmitted[envelope.id] > resubmitted
        if is_new and accepted == envelope.id:
            assert not is_full
            assert not is_key_wrong

    def _limits(self, role: str) -> tuple[int, int]:
        limits = self.policy.roles.get(role, RolePolicy()).limits
        return limits.depth or self.policy.depth, limits.in_flight or self.policy.in_flight

    @rule(state=states, pick=picks, client=st.sampled_from(("", "", *CLIENTS)))
    def cancel(self, state: str, pick: int, client: str) -> None:
        """A client cancels a request, or only its own."""
        self.run(self.pool.requests.cancel(self._some(state, pick), client))

    @rule(state=states, pick=picks, client=st.sampled_from(CLIENTS))
    def attach(self, state: str, pick: int, client: str) -> None:
        self.run(self.pool.requests.attach(client, self._some(state, pick)))

    @rule(state=states, pick=picks)
    def leave(self, state: str, pick: int) -> None:
        """The owner of a request leaves."""
        self.run(self.pool.beats.leave(self.envelopes[self._some(state, pick)].client))

    @rule(client=st.sampled_from(CLIENTS), recovers=st.booleans(), forgot=st.integers(0, 3))
    def check(self, client: str, recovers: bool, forgot: int) -> None:
        """A client's beat. A client that has forgotten its requests cancels them."""
        self.run(self._check(client, recovers=recovers, held=0 if forgot == 3 else None))

    async def _check(self, client: str, *, recovers: bool, held: int | None = None) -> None:
        ids = self.witness.requests
        checked = await self.pool.beats.check(client, ids, held=held)
        fields = await self.witness.fields()
        for request_id, status in zip(ids, checked.statuses, strict=True):
            known = fields.get(request_id, {})
            assert (status.state, status.attempt) == (known.get("state", "missing"), int(known.get("attempt", 0)))
        for stranger in sorted(checked.strangers):
            assert fields[stranger]["client"] == client
            await self.pool.requests.cancel(stranger, client)
        await self._meet(checked.lapsed, recovers=recovers)

    # Routers.

    @rule()
    def route(self) -> None:
        """A router dispatches and refuses what its plan says."""
        self.run(self._route())

    async def _route(self) -> None:
        survey = await self.pool.survey()
        self.heads = [*self.heads, *survey.heads][-20:]
        chosen = plan(survey, await self.pool.policies.read())
        for placement in chosen.placements:
            await self._dispatch(placement.head, placement.lane, placement.model)
        for refusal in chosen.refusals:
            await self.pool.requests.fail(refusal.head.id, refusal.head.attempt, refusal.error)

    async def _dispatch(self, head: Head, lane: str, model: str) -> None:
        queued = (await self.witness.fields()).values()
        self.tokens += 1
        attempt = await self.pool.requests.dispatch(head, lane, model, f"token{self.tokens}")
        if attempt is not None:
            at_lane = [it for it in queued if it["state"] in ("dispatched", "running") and it["lane"] == lane]
            kind = self.envelopes[head.id].kind
            limit = next(it for it in LANES if it.lane == lane).offer.limit_of(kind)
            assert sum(it["kind"] == kind for it in at_lane) < limit
            self.jobs.append((head.id, attempt, lane))

    @rule(router=st.sampled_from(ROUTERS), recovers=st.booleans())
    def sweep(self, router: str, recovers: bool) -> None:
        self.run(self._sweep(router, recovers=recovers))

    async def _sweep(self, router: str, *, recovers: bool) -> None:
        swept = await self.pool.beats.sweep(router)
        fields = await self.witness.fields()
        assert not await self.redis.zrangebyscore(f"{PREFIX}delayed", "-inf", self.now_ms)
        for it in fields.values():
            if it["state"] in LIVE and int(it["deadline"]) <= self.now_ms:
                assert it["state"] == "running"
                assert "cancel" in it
        states = {it["state"] for it in fields.values()}
        assert (swept.waits, swept.runs) == ("waiting" in states, bool(states & {"dispatched", "running"}))
        await self._meet(swept.lapsed, recovers=recovers)

    async def _meet(self, lapsed: Sequence[LapsedAttempt], *, recovers: bool) -> None:
        """A router or client recovers lapsed attempts, or dies before it does."""
        fields = await self.witness.fields()
        for it in lapsed:
            assert fields[it.id]["attempt"] == str(it.attempt)
        self.lapsed = [*self.lapsed, *lapsed][-20:]
        if recovers:
            await recover(self.pool, lapsed)
            assert not self.pool.internal_errors.count

    @precondition(lambda self: self.lapsed)
    @rule(pick=picks, gives_up=st.booleans(), meanwhile=st.sampled_from(("", "", "cancelled", "late")))
    def recover_late(self, pick: int, gives_up: bool, meanwhile: str) -> None:
        """A router recovers what it learned of some time ago; with another policy, it may decide otherwise."""
        it = self._pick(self.lapsed, pick)
        self.run(self._meanwhile(it.id, meanwhile))
        if gives_up:
            self.run(self.pool.requests.fail(it.id, it.attempt, ProviderDown(), lapsed=True))
        else:
            self.run(recover(self.pool, [it]))

    def lapse(
        self, state: str, pick: int, watched: str, *, meanwhile: str = "", gives_up: bool = False, flags: bool = False
    ) -> bool:
        """The lease of a request lapses, and somebody recovers the request some time later."""
        ms = Policy().start_lease_ms if state == "dispatched" else Policy().lease_ms
        self.pass_time(ms, watched, recovers=False, state=state, pick=pick, flags=flags)
        if self.lapsed:
            self.recover_late(0, gives_up=gives_up, meanwhile=meanwhile)
        return bool(self.lapsed)

    async def _meanwhile(self, request_id: str, what: str) -> None:
        """What happens to a request before somebody acts on what they know of it."""
        fields = (await self.witness.fields()).get(request_id)
        if what == "cancelled":
            await self.pool.requests.cancel(request_id)
        elif what == "late" and fields and fields["state"] in LIVE:
            await self._pass_time(max(0, int(fields["deadline"]) - self.now_ms), "not")
        elif what == "entry deleted" and fields and fields["state"] == "dispatched" and fields["entry"]:
            await self.redis.xdel(f"{PREFIX}role:{fields['role']}", fields["entry"])

    @precondition(lambda self: self.heads)
    @rule(pick=picks, lane=st.sampled_from((LANE1.lane, LANE2.lane)))
    def dispatch_late(self, pick: int, lane: str) -> None:
        """A router dispatches what it surveyed some time ago."""
        self.run(self._dispatch(self._pick(self.heads, pick), lane, "m1"))

    @rule(state=states, pick=picks)
    def refuse(self, state: str, pick: int) -> None:
        """A router refuses what it surveyed some time ago, perhaps before an attempt of it began."""
        request_id = self._some(state, pick)
        newest = int(self.run(self.witness.fields()).get(request_id, {}).get("attempt", 0))
        self.run(self.pool.requests.fail(request_id, newest if pick % 3 else 0, life.REFUSAL))

    # Workers.

    @rule()
    def work(self) -> None:
        """A router dispatches, and the first workers of the lanes start what they get."""
        self.run(self._work())

    async def _work(self) -> None:
        await self._route()
        for request_id, attempt, lane in self.jobs:
            await self._start(2 if lane == "lane2" else 0, (request_id, attempt, lane))

    @rule(
        worker=workers,
        condition=st.sampled_from(("up", "up", "up", "down", "draining")),
        hears_reply=st.sampled_from((True, True, False)),
    )
    def beat(self, worker: int, condition: str, hears_reply: bool) -> None:
        self.run(self._beat(worker, condition, hears_reply=hears_reply))

    async def _beat(self, worker: int, condition: str = "up", *, hears_reply: bool = True) -> None:
        name, lane = self.name(worker), LANES[worker]
        held = list(self.held[name].items())
        reply = await self.pool.beats.renew(
            name,
            lane,
            [it.running() for _, it in held],
            accepts_new_work=condition != "draining",
            condition=ServerCondition(LaneState.DOWN) if condition == "down" else UP,
        )
        if not reply.registered:
            await self.pool.beats.register(name, lane.lane, life.FACTS)
        if not hears_reply:
            return
        for (request_id, it), outcome in zip(held, reply.outcomes, strict=True):
            if outcome == "stale":
                del self.held[name][request_id]
            elif outcome != "mine":
                await self._finish(name, it, outcome)

    @rule(
        pick=picks,
        is_fresh=st.booleans(),
        other=st.booleans(),
        meanwhile=st.sampled_from(("", "", "cancelled", "late", "entry deleted")),
    )
    def start(self, pick: int, is_fresh: bool, other: bool, meanwhile: str) -> None:
        """A worker starts a job of its lane, which it may have read some time ago."""
        job = self._job(pick, is_fresh=is_fresh)
        self.run(self._start_late(2 if job[2] == LANE2.lane else int(other), job, meanwhile))

    async def _start_late(self, worker: int, job: tuple[str, int, str], meanwhile: str) -> None:
        fields = (await self.witness.fields()).get(job[0], {})
        if meanwhile != "entry deleted" or fields.get("attempt") == str(job[1]):
            await self._meanwhile(job[0], meanwhile)
        await self._start(worker, job)

    @rule(
        worker=workers,
        pick=picks,
        is_fresh=st.booleans(),
        due_ms=st.sampled_from((0, 20_000)),
        meanwhile=st.sampled_from(("", "late")),
    )
    def give_back(self, worker: int, pick: int, is_fresh: bool, due_ms: int, meanwhile: str) -> None:
        """A worker gives back a job that it may not have started."""
        job = self._job(pick, is_fresh=is_fresh)
        self.run(self._meanwhile(job[0], meanwhile))
        self.run(self._give_back(worker, job, due_ms))

    async def _give_back(self, worker: int, job: tuple[str, int, str], due_ms: int) -> None:
        await self.pool.requests.requeue(job[0], job[1], self.name(worker), due_ms, cause="draining")

    async def _start(self, worker: int, job: tuple[str, int, str]) -> None:
        request_id, attempt, _ = job
        claim = await self.pool.requests.start(request_id, attempt, self.name(worker))
        if claim is not None:
            self.held[self.name(worker)][request_id] = Held(claim, LANES[worker])

    @precondition(lambda self: self.is_running())
    @rule(pick=picks, ending=st.sampled_from(("completed", "completed", "failed", "cancelled", "expired")))
    def finish(self, pick: int, ending: Ending) -> None:
        name, it = self._pick(self._runs(), pick)
        self.run(self._finish(name, it, ending))

    async def _finish(self, name: str, it: Held, ending: Ending, error: LlmError | None = None) -> None:
        attempt, code = it.claim.attempt, error.code if error else ""
        message = b'{"type":"%s"}' % ending.encode()
        if error:
            message = Failed(attempt=attempt, error=error.report()).to_wire()
        try:
            await self.pool.requests.finish(it.claim.envelope.id, attempt, name, ending, 3, code, message)
        except RequestLost:
            return  # the next beat restores the request
        self.held[name].pop(it.claim.envelope.id, None)

    @precondition(lambda self: self.is_running())
    @rule(
        pick=picks,
        cause=st.sampled_from(("timed out", "delivered", "not reached", "draining", "no handover")),
    )
    def fail_attempt(self, pick: int, cause: str) -> None:
        """A worker whose attempt broke does what `decide` says."""
        name, it = self._pick(self._runs(), pick)
        self.run(self._fail_attempt(name, it, cause))

    async def _fail_attempt(self, name: str, it: Held, cause: str) -> None:
        delivered = cause == "delivered" or it.claim.needs.continues is not None
        history = History(
            it.claim.needs, it.lane.lane, "m1", it.claim.starts, delivered=int(delivered), left_ms=it.claim.left_ms
        )
        error = Timeout("took too long")
        causes: Mapping[str, Cause] = {
            "timed out": AttemptFailed(error),
            "delivered": AttemptFailed(error, delivered=True),
            "not reached": AttemptFailed(ProviderDown(), reached=False),
            "draining": WorkerDraining(),
        }
        decision = decide(causes[cause], history, self.policy) if cause in causes else decide_without_handover(history)
        if isinstance(decision, End):
            await self._finish(name, it, "failed", decision.error)
            return
        assert isinstance(decision, TryAgain)
        envelope = it.claim.envelope
        state = await self.pool.requests.requeue(
            envelope.id,
            it.claim.attempt,
            name,
            decision.due_ms,
            queue=replace(Queue.of(envelope), needs=decision.needs),
            counts=decision.counts,
            cause=error.code,
            longest_delay_ms=decision.longest_delay_ms,
        )
        if state == "lost":
            await self._forget(name, it)
        elif state == "spent":
            await self._finish(name, it, "failed", decide_without_budget(error).error)
        else:
            self.held[name].pop(envelope.id, None)

    @precondition(lambda self: self.is_running())
    @rule(pick=picks)
    def speak_for_outdated(self, pick: int) -> None:
        """A worker speaks for the attempt before the newest one; `Witness` sees that nobody listens."""
        self.run(self._speak_for_outdated(*self._pick(self._runs(), pick)))

    async def _speak_for_outdated(self, name: str, it: Held) -> None:
        request_id, outdated = it.claim.envelope.id, replace(it, claim=replace(it.claim, attempt=it.claim.attempt - 1))
        if request_id not in await self.witness.fields():
            return  # the server lost its data, and takes any attempt for the newest
        await self.pool.beats.renew(name, it.lane, [outdated.running()], accepts_new_work=True)
        await self.pool.requests.finish(request_id, outdated.claim.attempt, name, "completed", 3, "", b"{}")
        await self.pool.requests.requeue(request_id, outdated.claim.attempt, name)

    @precondition(lambda self: self.is_running())
    @rule(pick=picks, meanwhile=st.sampled_from(("", "cancelled", "late")))
    def forget(self, pick: int, meanwhile: str) -> None:
        """A worker learns that the server has lost the payload of a request, if it has."""
        name, it = self._pick(self._runs(), pick)
        self.run(self._meanwhile(it.claim.envelope.id, meanwhile))
        self.run(self._forget(name, it))

    async def _forget(self, name: str, it: Held) -> None:
        state = await self.pool.requests.forget(it.claim.envelope.id, it.claim.attempt, name)
        if state != "stale":
            self.held[name].pop(it.claim.envelope.id, None)
        if state == "forgotten":
            self.lost.add(it.claim.envelope.id)

    @rule(worker=workers, is_buried=st.booleans())
    def die(self, worker: int, is_buried: bool) -> None:
        """A worker is killed; its parent reports that, or nobody does."""
        name = self.name(worker)
        self.held.pop(name, None)
        if is_buried:
            self.run(self.pool.beats.bury(name))
        self.generations[worker] += 1

    # Operators.

    @rule(stopped=st.sampled_from(("lane1", "lane2", *ROLES)), resumes=st.booleans())
    def stop_work(self, stopped: str, resumes: bool) -> None:
        if stopped in ROLES:
            self.run(self.pool.resume_role(stopped) if resumes else self.pool.pause_role(stopped))
        else:
            self.run(self.pool.resume_lane(stopped) if resumes else self.pool.drain_lane(stopped))

    @rule(state=states, pick=picks)
    def purge(self, state: str, pick: int) -> None:
        self.run(self._purge([*{self._some(state, pick): None, self._some("waiting", pick): None}]))

    async def _purge(self, ids: list[str]) -> None:
        before = await self.witness.fields()
        purged = await self.pool.requests.purge(ids)
        assert purged == sum(before.get(it, {}).get("state") in ("waiting", "delayed") for it in ids)

    @rule(policy=st.sampled_from(POLICIES), key=st.sampled_from(("", "", "k1", "k2")))
    def change_rules(self, policy: Policy, key: str) -> None:
        """An operator applies a policy, or changes the pool's key."""
        if key:
            self.key = key
            self.run(self._call("announce", (key, "replace", "", "")))
        else:
            self.policy = policy
            self.run(self.pool.policies.write(policy))

    # The world.

    @rule(
        ms=st.sampled_from((600, 2_100, 4_000, 11_000, 20_000)),
        watched=st.sampled_from(("swept", "checked", "alive", "not")),
        recovers=st.booleans(),
        state=states,
        pick=picks,
        flags=st.booleans(),
    )
    def pass_time(self, ms: int, watched: str, recovers: bool, state: str, pick: int, flags: bool) -> None:
        """Time passes for a request: only routers sweep, only clients check, everybody is alive, or nobody."""
        request_id = self._some(state, pick)
        if flags and state == "running":
            self.run(self.pool.requests.cancel(request_id))
        self.run(self._pass_time(ms, watched, recovers=recovers))

    async def _pass_time(self, ms: int, watched: str, *, recovers: bool = True) -> None:
        while ms > 0:
            step = ms if watched == "not" else min(ms, STEP_MS)
            before = await self.witness.fields()
            self.now_ms = await stopped_clock.pass_time(self.redis, step)
            after = await self.witness.fields()
            assert {it for it, fields in before.items() if fields["state"] in LIVE} <= after.keys()
            ms -= step
            if watched == "alive":
                for worker in range(len(LANES)):
                    await self._beat(worker)
            if watched in ("checked", "alive"):
                for client in CLIENTS:
                    await self._check(client, recovers=recovers)
            if watched in ("swept", "alive"):
                await self._sweep(ROUTERS[0], recovers=recovers)

    @precondition(lambda self: self.witness.sent)
    @rule(pick=picks)
    def call_again(self, pick: int) -> None:
        """A call that was thought lost arrives a second time, after others."""
        name, args = self._pick(self.witness.sent[-30:], pick)
        self.run(self._call(name, args))

    async def _call(self, name: str, args: tuple[bytes | str | int, ...]) -> None:
        await self.pool.scripts.run(name, *args)
        if name == "set_policy":
            self.policy = await self.pool.policies.read()

    @rule(disaster=st.sampled_from(("retries", "retries", "retries", "wipe")))
    def suffer(self, disaster: str) -> None:
        """Other requests have spent the retry budget of a minute, or the server loses all data."""
        if disaster == "wipe":
            self.run(self._wipe())
        else:
            self.run(self.redis.hset(f"{PREFIX}retries", "paid_at", self.now_ms + 60_000))

    async def _wipe(self) -> None:
        await self._count_ends()
        fields = await self.witness.fields()
        self.lost |= {it for it, known in fields.items() if known["state"] in LIVE}
        await self.redis.flushall()
        await self.redis.set(life.CLOCK, self.now_ms)
        self.ends.clear()
        self.witness.resubmitted.clear()
        self.policy, self.key = Policy(), ""

    # What holds after each rule.

    @invariant()
    def is_audited(self) -> None:
        self.run(self._audit())

    async def _audit(self) -> None:
        states = await life.audit(self.redis)
        await self._count_ends()
        assert states.keys() <= set(self.witness.requests)
        for request_id, state in states.items():
            ends = self.ends[request_id] - self.witness.resubmitted[request_id]
            assert ends == (state in ENDED), (request_id, state)

    async def _count_ends(self) -> None:
        for channel, content in await self.ear.heard():
            if content.get("type") in ENDED:
                self.ends[channel.removeprefix("deltas:")] += 1
        assert all(ends - self.witness.resubmitted[it] in (0, 1) for it, ends in self.ends.items()), self.ends

    def teardown(self) -> None:
        if self.is_sound:
            self.run(self._settle())

    async def _settle(self) -> None:
        """All go on until all requests have ended. An hour later the server holds nothing of them."""
        self.witness.twice = False
        for stopped in ("lane1", "lane2"):
            await self.pool.resume_lane(stopped)
        for role in ROLES:
            await self.pool.resume_role(role)
        for _ in range(60):
            self.jobs.clear()
            await self._work()
            for name, it in self._runs():
                await self._finish(name, it, "completed")
            await self._pass_time(STEP_MS, "alive")
            await self._audit()
            if not any(it["state"] in LIVE for it in (await self.witness.fields()).values()):
                break
        else:
            pytest.fail("some requests do not end")
        await self._leave_nothing()

    async def _leave_nothing(self) -> None:
        await self.redis.delete(f"{PREFIX}retries")
        for ms in (HOUR_MS, *[STEP_MS] * 5):  # after an hour in which nobody looked, nothing lapses for a lease
            self.now_ms = await stopped_clock.pass_time(self.redis, ms)
            await self.pool.beats.sweep(ROUTERS[0])
        left = {key.removeprefix(PREFIX) for key in await life.dump(self.redis) if not key.startswith("ttl ")}
        assert left <= {"swept", "sequence", "policy", "key", "failed", "routers"}

    # Choices.

    @staticmethod
    def _pick(items: Sequence[T], pick: int) -> T:
        """An item. Small numbers, which hypothesis prefers, stand for the newest."""
        return items[-1 - pick % len(items)]

    def _some(self, state: str, pick: int) -> str:
        """A request in this state."""
        return self.run(self._brought(state, pick))

    async def _brought(self, state: str, pick: int) -> str:
        """A request in this state: one that is there, or a new one, as far as the pool lets it come."""
        fields = await self.witness.fields()
        ids = [it for it in self.witness.requests if fields.get(it, {}).get("state") == state]
        if ids:
            return self._pick(ids, pick)
        envelope = self._envelope(ROLES[0], AGENTS[0], time_to_live_ms=(600_000, 3_000)[pick % 2])
        await self._submit(envelope)
        if state == "waiting" or envelope.id not in await self.witness.fields():
            return envelope.id
        for worker in (0, 2):
            await self._beat(worker)
            await self._dispatch(await life.head(self.pool, envelope.id), LANES[worker].lane, "m1")
            if self.jobs and self.jobs[-1][0] == envelope.id:
                if state != "dispatched":
                    await self._start(worker, self.jobs[-1])
                if state == "delayed":
                    await self._give_back(worker, self.jobs[-1], 20_000)
                break
        return envelope.id

    def _job(self, pick: int, *, is_fresh: bool) -> tuple[str, int, str]:
        """A job that some worker may start, or one that it may have read before."""
        if is_fresh or not self.jobs:
            request_id = self._some("dispatched", pick)
            return next((job for job in reversed(self.jobs) if job[0] == request_id), (request_id, 0, LANE1.lane))
        return self._pick(self.jobs, pick)

    def _runs(self) -> list[tuple[str, Held]]:
        return [(name, it) for name, held in self.held.items() for it in held.values()]

    def is_running(self) -> bool:
        return any(self.held.values())

    def _attempt_of(self, request_id: str) -> int:
        """The newest attempt of which the agent can know."""
        return max((attempt for it, attempt, _ in self.jobs if it == request_id), default=0)

    async def _known(self, request_id: str) -> bool:
        return request_id in await self.witness.fields()


EVEN, ODD = 0, 1
"""Picks of a new request: with ten minutes to live, and with three seconds."""

RARE: Final[tuple[Callable[[Machine], object], ...]] = (
    lambda it: it.start(EVEN, is_fresh=True, other=False, meanwhile="entry deleted"),
    lambda it: it.start(ODD, is_fresh=True, other=False, meanwhile="late"),
    *(lambda it, state=state: it.cancel(state, EVEN, "") for state in LIVE),
    *(lambda it, state=state: it.purge(state, EVEN) for state in LIVE),
    *(lambda it, state=state: it.refuse(state, EVEN) for state in LIVE),
    lambda it: it.refuse("delayed", EVEN + 2),  # as it is known since its attempt
    *(lambda it, state=state: [it.leave(state, EVEN), it.sweep(ROUTERS[0], recovers=True)] for state in LIVE),
    *(lambda it, ending=ending: [it._some("running", EVEN), it.finish(0, ending)] for ending in ENDED),
    lambda it: [it._some("running", EVEN), it.finish(0, "completed"), it.submit_again(0, floor=True)],
    lambda it: it.pass_time(4_000, "swept", recovers=False, state="waiting", pick=ODD, flags=False),
    lambda it: it.lapse("dispatched", EVEN, "swept", gives_up=True),
    lambda it: it.lapse("dispatched", ODD, "swept", meanwhile="late"),
    lambda it: it.lapse("dispatched", ODD, "swept", meanwhile="late", gives_up=True),
    lambda it: it.lapse("running", EVEN, "swept", gives_up=True),
    lambda it: it.lapse("running", EVEN, "checked", meanwhile="cancelled"),
    lambda it: it.lapse("running", EVEN, "swept", meanwhile="cancelled", gives_up=True),
    lambda it: it.lapse("running", EVEN, "swept", meanwhile="late"),
    lambda it: [it.lapse("running", EVEN, "swept"), it.recover_late(0, gives_up=True, meanwhile="")],
    lambda it: [it.change_rules(POLICIES[2], ""), it.lapse("running", EVEN, "swept")],  # it then runs alone
    lambda it: [it._some("running", EVEN), it.speak_for_outdated(0)],
    lambda it: it.lapse("running", EVEN, "swept", flags=True),
    lambda it: it.lapse("running", EVEN, "checked", flags=True),
    lambda it: it.lapse("running", ODD, "swept"),
    lambda it: it.lapse("running", ODD, "checked"),
    lambda it: it.pass_time(4_000, "checked", recovers=False, state="dispatched", pick=ODD, flags=False),
    lambda it: it.pass_time(4_000, "swept", recovers=False, state="dispatched", pick=ODD, flags=False),
    lambda it: it.pass_time(4_000, "swept", recovers=False, state="delayed", pick=ODD, flags=False),
    lambda it: [it.give_back(0, EVEN, is_fresh=True, due_ms=due_ms, meanwhile="") for due_ms in (0, 20_000)],
    lambda it: [it.give_back(0, ODD, is_fresh=True, due_ms=0, meanwhile="late")],
    *(
        lambda it, meanwhile=meanwhile: [
            it._some("running", EVEN),
            it.suffer("wipe"),
            it.beat(0, "up", hears_reply=True),
            it.forget(0, meanwhile),
        ]
        for meanwhile in ("", "cancelled", "late")
    ),
)
"""Steps that random examples seldom take."""


def take_rare_steps(machine: type[Machine]) -> None:
    """Take each of the rare steps in a pool of its own."""
    for steps in RARE:
        for twice in (False, True):
            state = machine()
            state.begin(twice=twice, requests=[], starts=False)
            steps(state)
            state.is_audited()
            state.teardown()


def _examples() -> settings:
    """The settings of a run: the same examples each time, or as many random ones as asked for."""
    return settings(
        derandomize=_EXAMPLES is None,
        database=None,
        max_examples=int(_EXAMPLES or 20),
        stateful_step_count=50,
        suppress_health_check=list(HealthCheck),
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
    )


@pytest.fixture
def machine(redis_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Machine]]:
    """The machine, on a real server whose clock stands still."""
    stopped_clock.stop_clock(monkeypatch)
    with asyncio.Runner() as runner:
        loop, stack = runner.get_loop(), AsyncExitStack()

        async def open_pool() -> None:
            Machine.pool = await stack.enter_async_context(connect(redis_server))
            Machine.ear = await stack.enter_async_context(life.listen(Machine.pool))
            Machine.witness = Witness(Machine.pool)

        runner.run(open_pool())
        monkeypatch.setattr(Machine.pool.scripts, "run", Machine.witness.run)
        Machine.loop = loop
        try:
            yield Machine
        finally:
            runner.run(stack.aclose())


@pytest.mark.timeout(0)
def test_whatever_happens_in_whatever_order(machine: type[Machine]) -> None:
    """Every request is in one state, changes it only as the table says, and ends once; no key, slot or job is left."""
    take_rare_steps(machine)
    run_state_machine_as_test(machine, settings=_examples())
    counts = {change: machine.witness.seen.get(change, 0) for change in sorted(CHANGES)}
    print(*(f"{count:6} {' '.join(change)}" for change, count in counts.items()), sep="\n")  # noqa: T201  # shown with a failure
    assert [change for change, count in counts.items() if not count] == []
