"""A worker dies, and nobody is there who could begin the next attempt: its streams wait, and go on or end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.faults.history import Event, check_history
from tests.faults.scenario import Site, ask, site
from tests.faults.test_kills import TEXT, extra, kill_who_runs
from tests.integration.farm import eventually
from tests.integration.life import PREFIX, audit, raw
from tests.waiting import until

from tokenlane.producer import Client, Interrupted
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import Pool, connect

LEASE_S = 1.0
WITHIN_S = 15.0
"""Far more than the promise, a lease and a second, for machines that are busy; far less than a request's deadline."""
POLICY = Policy(
    roles={"planner": RolePolicy(route=(Candidate(lane="gpu0"),))},
    lease_ms=int(1000 * LEASE_S),
    start_lease_ms=700,
    patience_ms=600_000,
)
IMPATIENT = POLICY.model_copy(update={"patience_ms": 0})
"""Refuses answers that no lane can continue as soon as a router looks at them."""

Fault = Callable[[Site], Awaitable[None]]


async def _nothing(town: Site) -> None:
    pass


async def _redis_restarts(town: Site) -> None:
    await town.server.kill()
    await town.server.start()


async def _redis_is_wiped(town: Site) -> None:
    await town.server.kill(wipe=True)
    await town.server.start()


async def _all_others_freeze(town: Site) -> None:
    for child in town.workers:
        child.freeze()


async def _ended(pool: Pool, request_id: str, state: str) -> None:
    async def ended() -> bool:
        return bool(await raw(pool).hget(f"{PREFIX}request:{request_id}", "state") == state.encode())

    await eventually(ended)
    assert (await audit(raw(pool))).get(request_id) == state  # only now: an audit of what moves is torn


async def _serves_again(town: Site, client: Client) -> None:
    """A worker that comes later runs what is asked then, and nothing else."""
    for child in town.workers:
        child.thaw()
    before = len(town.backends["gpu0"].log)
    await town.open("gpu0")
    history: list[Event] = []
    assert await ask(client, history, "planner", ("a ", "b ")) == "completed"
    assert check_history(history) == []
    assert len(town.backends["gpu0"].log) == before + 1


@pytest.mark.parametrize(
    ("lanes", "fault"),
    [
        (("gpu0",), _nothing),
        (("gpu0", "gpu1"), _nothing),
        (("gpu0",), _redis_restarts),
        (("gpu0", "gpu0"), _all_others_freeze),
    ],
)
async def test_an_answer_that_broke_off_waits_and_goes_on(lanes: tuple[str, ...], fault: Fault, tmp_path: Path) -> None:
    """Whoever else is there or not, and whatever Redis does: a worker that comes later continues the answer."""
    async with site(tmp_path, POLICY, lanes, "llamacpp") as town, Client(town.server.url) as client:
        backend = town.backends["gpu0"]
        async with client.chat("hi", role="planner", extra=extra(hold_after=5)) as stream:
            got = [(await anext(stream)).text for _ in range(5)]
            await kill_who_runs(town, stream.request_id)
            await fault(town)
            async with asyncio.timeout(WITHIN_S):
                await until(lambda: stream.waiting is not None)
            await town.open("gpu0")
            await backend.wait_for(lambda: bool(backend.log[-1].prefill), 2 * WITHIN_S)
            later = asyncio.create_task(stream.answer())
            await until(lambda: backend.log[-1].held or later.done())
            backend.release()
            answer = await later
        assert "".join(got) == "w0 w1 w2 w3 w4 "
        assert answer.text == TEXT
        async with connect(town.server.url) as pool:
            await _ended(pool, stream.request_id, "completed")
        for child in town.workers:
            child.thaw()


async def test_an_answer_ends_if_the_server_knows_no_worker(tmp_path: Path) -> None:
    """A server that was wiped does not know that there was a worker, so nothing is waited for."""
    async with site(tmp_path, POLICY, ("gpu0",)) as town, Client(town.server.url) as client:
        async with client.chat("hi", role="planner", extra=extra(hold_after=5)) as stream:
            got = [(await anext(stream)).text for _ in range(5)]
            await kill_who_runs(town, stream.request_id)
            await _redis_is_wiped(town)
            async with asyncio.timeout(WITHIN_S):
                with pytest.raises(Interrupted) as interrupted:
                    await anext(stream)
            assert stream.waiting is None
        assert interrupted.value.partial == "".join(got) == "w0 w1 w2 w3 w4 "
        await _serves_again(town, client)


@pytest.mark.parametrize("seed", range(2))
async def test_answers_that_broke_off_at_any_moment(seed: int, tmp_path: Path) -> None:
    """The only worker is killed at a random moment, some requests running and some waiting. Once a worker comes, what
    had not begun is run, what its lane cannot continue ends with its part, and everything ends once."""
    dice, history = random.Random(seed), list[Event]()
    async with site(tmp_path, IMPATIENT, ("gpu0",)) as town, Client(town.server.url) as client:
        pieces = tuple(f"{number} " for number in range(30))
        tasks = [asyncio.create_task(ask(client, history, "planner", pieces, itl_ms=20)) for _ in range(5)]
        at = dice.randrange(12, 100)
        while len(history) < at:
            await asyncio.sleep(0.001)
        (child,) = town.workers
        del town.workers[child]
        await child.kill()
        if dice.random() < 0.5:
            await _redis_restarts(town)
        if dice.random() < 0.5:
            await asyncio.sleep(dice.uniform(0, 2 * LEASE_S))
        await town.open("gpu0")
        async with asyncio.timeout(4 * WITHIN_S):
            outcomes = await asyncio.gather(*tasks)
        assert set(outcomes) <= {"completed", "interrupted"}
        assert "completed" in outcomes
        assert check_history(history) == []
        async with connect(town.server.url) as pool:
            assert set((await audit(raw(pool))).values()) <= {"completed", "failed"}


async def test_what_had_not_begun_waits_and_is_run(tmp_path: Path) -> None:
    """A request of which nothing was delivered goes back to waiting without any router, and a later worker runs it."""
    async with site(tmp_path, POLICY, ("gpu0",)) as town, Client(town.server.url) as client:
        backend = town.backends["gpu0"]
        async with client.chat("hi", role="planner", extra=extra(hold_after=0)) as stream:
            await backend.held()
            await kill_who_runs(town, stream.request_id)
            async with connect(town.server.url) as pool:
                await _ended(pool, stream.request_id, "waiting")
            backend.release()
            await backend.wait_for(lambda: backend.running == 0)
            later = asyncio.create_task(stream.answer())
            await town.open("gpu0")
            await backend.held()
            backend.release()
            answer = await later
        assert (answer.text, answer.usage.attempts) == (TEXT, 2)


async def test_all_who_read_an_answer_hear_of_its_end(tmp_path: Path) -> None:
    """Of two agents on one request, in two clients, both get what each has as a part; the request ends once. A worker
    that comes later finds that its lane cannot continue the answer."""
    async with site(tmp_path, IMPATIENT, ("gpu0",)) as town, Client(town.server.url) as client:
        async with Client(town.server.url) as other:
            async with client.chat("hi", role="planner", extra=extra(hold_after=5)) as stream:
                got = [(await anext(stream)).text for _ in range(5)]
                async with other.attach(stream.request_id, after=1) as joined:
                    more = [(await anext(joined)).text for _ in range(3)]
                    await kill_who_runs(town, stream.request_id)
                    await town.open("gpu0")
                    for reader, part in ((stream, got), (joined, more)):
                        async with asyncio.timeout(WITHIN_S):
                            with pytest.raises(Interrupted) as interrupted:
                                await anext(reader)
                        assert interrupted.value.partial == "".join(part)
            async with connect(town.server.url) as pool:
                assert await audit(raw(pool)) == {stream.request_id: "failed"}
                assert await raw(pool).xlen("{main}:failed") == 1


async def test_a_frozen_worker_that_comes_back_finds_its_answer_ended(tmp_path: Path) -> None:
    """A worker that only slept is as good as dead to its agent. When it wakes, it stops, says nothing more of that
    attempt, and works on; the answer ends if its lane cannot continue it."""
    async with site(tmp_path, IMPATIENT, ("gpu0",)) as town, Client(town.server.url) as client:
        backend = town.backends["gpu0"]
        async with client.chat("hi", role="planner", extra=extra(hold_after=5)) as stream:
            for _ in range(5):
                await anext(stream)
            (child,) = town.workers
            child.freeze()
            await until(lambda: stream.waiting is not None)
            child.thaw()
            async with asyncio.timeout(WITHIN_S):
                with pytest.raises(Interrupted):
                    await anext(stream)
        await backend.wait_for(lambda: backend.log[0].ended == "disconnected")
        assert await ask(client, [], "planner", ("a ",)) == "completed"
        async with connect(town.server.url) as pool:
            assert (await audit(raw(pool)))[stream.request_id] == "failed"
