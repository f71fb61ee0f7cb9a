"""A lane accepts work while its model server can work, not for as long as its worker beats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Literal, cast

import pytest
from tests.lanes import chats
from tests.waiting import until
from tests.workshop import FakeProvider

from tokenlane.routing.contract.errors import (
    BadRequest,
    Interrupted,
    LlmError,
    ModelNotFound,
    ProviderDown,
    RateLimited,
    Timeout,
    Unauthorized,
)
from tokenlane.routing.decide.lanes.offer import Announcement
from tokenlane.routing.decide.lanes.state import UP, LaneState, ServerCondition
from tokenlane.routing.support.tasks import background
from tokenlane.worker.lane.attempt_key import AttemptKey
from tokenlane.worker.lane.availability import Availability
from tokenlane.worker.lane.heartbeat import Heartbeat
from tokenlane.worker.lane.model_server import readiness
from tokenlane.worker.lane.model_server.circuit_breaker import LEAST_FAILED
from tokenlane.worker.lane.model_server.readiness import Readiness, check_condition
from tokenlane.worker.lane.running_attempts import Run, Runs
from tokenlane.worker.lane.timings import TIMINGS, Timings

DOWN = ServerCondition(LaneState.DOWN, "gone")
LANE = Announcement("lane1", "fake", "http://here", ("m1",), chats(2))


def saying(state: Literal["loading", "down"], error: LlmError) -> LlmError:
    """The error of a model server that says so."""
    error.server_condition = state
    return error


class Patient(FakeProvider):
    """A model server that says how it is; `error`: what keeps it from working."""

    def __init__(self) -> None:
        super().__init__()
        self.ill: Exception | None = None
        self.asked = 0

    async def healthy(self) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.ill is not None:
            raise self.ill


class Announced:
    """A heartbeat that remembers what it was to say of the model server."""

    def __init__(self, availability: Availability) -> None:
        self.availability = availability
        self.log: list[ServerCondition] = []

    async def beat(self) -> None:
        self.log.append(self.availability.condition)

    def announce_soon(self) -> None:
        self.log.append(self.availability.condition)

    async def announce(self) -> None:
        self.log.append(self.availability.condition)


class Ward:
    """A model server under watch. `looks`: how often the lane was to say what it serves; `blind`: how that fails."""

    def __init__(self, condition: ServerCondition, timings: Timings = TIMINGS) -> None:
        self.provider, self.said = Patient(), Availability(LANE, condition)
        self.announced = Announced(self.said)
        self.looks = 0
        self.blind: LlmError | None = None
        lease = cast("Heartbeat", self.announced)
        self.readiness = Readiness(self.provider, self.said, lease, Runs(), self._look, timings)

    def answer(self, request: str = "r") -> None:
        """The model server answers a request."""
        self.readiness.begin(AttemptKey(request, 1), "chat")
        self.readiness.record_answer(self._run(request))
        self.readiness.end(AttemptKey(request, 1))

    def fail(self, times: int, error: Exception | None = None) -> None:
        """The model server fails so many requests, one after the other."""
        for number in range(times):
            self.readiness.begin(AttemptKey(f"f{number}", 1), "chat")
            self.readiness.record_error(self._run(f"f{number}"), error or ProviderDown("HTTP 500"))
            self.readiness.end(AttemptKey(f"f{number}", 1))

    def _run(self, request: str) -> Run:
        claim, started_at = SimpleNamespace(model="m1"), self.readiness._clock()
        key = AttemptKey(request, 1)
        return cast("Run", SimpleNamespace(key=key, claim=claim, started_at=started_at, left_ms=600_000))

    async def _look(self) -> None:
        self.looks += 1
        if self.blind is not None:
            raise self.blind


@asynccontextmanager
async def watched(condition: ServerCondition = UP, timings: Timings = TIMINGS) -> AsyncIterator[Ward]:
    """A ward whose watch runs; `timings`: as `Readiness` has them."""
    ward = Ward(condition, timings)
    async with background() as tasks:
        tasks.create_task(ward.readiness.run())
        yield ward


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, "up"),
        (ProviderDown("HTTP 500"), "down"),
        (Timeout(), "down"),
        (saying("down", ProviderDown(retryable=False)), "down"),
        (saying("loading", ProviderDown("HTTP 503")), "loading"),
        (ProviderDown("another kind of server", retryable=False), "up"),
        (Unauthorized(), "up"),
        (RateLimited(), "up"),
        (BadRequest("no such page"), "up"),
        (ModelNotFound(), "up"),
        (RuntimeError("a bug of the provider's"), "up"),
    ],
)
async def test_what_an_answer_says_of_the_model_server(error: Exception | None, state: str) -> None:
    """Only what cannot come from a server at work makes it loading or down: others may take chats all the same."""
    provider = Patient()
    provider.ill = error
    found = await check_condition(provider)
    assert found.state == state
    assert bool(found.why) == (state != "up")


async def test_a_provider_without_a_page_of_health_is_asked_for_its_models() -> None:
    """Its list is the cheapest page there is."""
    provider = FakeProvider()
    assert await check_condition(provider) == UP

    async def models() -> list[object]:
        raise ProviderDown("gone")

    provider.models = models  # type: ignore[method-assign, assignment]  # it stops to answer
    assert (await check_condition(provider)).state == "down"


@pytest.mark.parametrize(
    ("error", "ill", "closed", "counts"),
    [
        (ProviderDown("HTTP 500"), None, False, True),
        (ProviderDown("HTTP 500"), ProviderDown("HTTP 502"), True, True),
        (Timeout(), ProviderDown("refused"), True, True),
        (Interrupted(retryable=True), ProviderDown("refused"), True, True),
        (Interrupted(retryable=True), None, False, True),
        (saying("down", ProviderDown("refused")), ProviderDown("refused"), True, False),
        (saying("down", ProviderDown("refused")), None, False, True),
        (saying("loading", ProviderDown("HTTP 503")), None, True, False),
        (BadRequest("no"), ProviderDown("refused"), False, True),
        (RateLimited(), ProviderDown("refused"), False, True),
    ],
)
async def test_what_a_failed_attempt_says(error: LlmError, ill: Exception | None, closed: bool, counts: bool) -> None:
    """The lane is closed if the server itself says that it cannot work, by the time that is known. What never reached
    a model is no try; what died with its server is one, since it may be what kills that."""
    ward = Ward(UP)
    ward.provider.ill = ill
    assert await ward.readiness.record_failure(error) == counts
    assert (ward.said.condition != UP) == closed


async def test_many_attempts_that_fail_together_ask_once() -> None:
    """A server that dies under load is not asked by each of its requests."""
    ward = Ward(UP)
    ward.provider.ill = ProviderDown("refused")
    gone = saying("down", ProviderDown("refused"))
    assert not any(await asyncio.gather(*(ward.readiness.record_failure(gone) for _ in range(64))))
    assert ward.provider.asked == 1
    assert len(ward.announced.log) == 1


async def test_a_model_server_that_comes_is_seen_and_says_first_what_it_serves() -> None:
    """A waiting lane accepts work once its model server can work and the lane has announced its models again."""
    async with watched(DOWN) as ward:
        ward.provider.ill = ProviderDown("refused")
        await until(lambda: ward.provider.asked > 1)
        assert (ward.looks, ward.said.condition.state) == (0, "down")
        ward.provider.ill, ward.blind = None, ModelNotFound("it has no model")
        await until(lambda: ward.looks > 0)
        assert ward.said.condition.state == "down"
        ward.blind = None
        async with asyncio.timeout(10):
            await ward.said.wait_until_up()
        await until(lambda: ward.said.condition == UP)


@pytest.mark.parametrize("was_up", [True, False])
async def test_only_a_recovery_is_a_warning(was_up: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A model server that comes back is logged as a warning, as its failure was; one that the lane waited for from the
    start is not."""
    async with watched(UP if was_up else DOWN, Timings(check_s=0.01)) as ward:
        if was_up:
            ward.provider.ill = ProviderDown("refused")
            await until(lambda: ward.said.condition.state == "down")
            ward.provider.ill = None
        await until(lambda: ward.said.condition == UP)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == (2 if was_up else 0)


async def test_an_idle_model_server_is_asked_now_and_then() -> None:
    """That it went away is seen without a request; one that has just answered need not be asked."""
    async with watched(timings=Timings(check_s=0.01, describe_s=3600)) as ward:
        await until(lambda: ward.provider.asked > 2)
        ward.provider.ill = ProviderDown("refused")
        await until(lambda: ward.said.condition.state == "down")
    assert ward.looks == 0


async def test_a_server_that_stays_away_is_asked_with_pauses() -> None:
    """However long its models have not been listed."""
    clock = asyncio.get_running_loop().time
    async with watched(DOWN, Timings(describe_s=0.001)) as ward:
        ward.provider.ill = ProviderDown("gone")
        began = clock()
        await until(lambda: ward.provider.asked >= 4)
        assert ward.provider.asked <= 2 + (clock() - began) / 0.1


async def test_an_attempt_that_broke_off_has_it_asked() -> None:
    """Nobody waits for that, and it is done at once."""
    async with watched(timings=Timings(check_s=3600, describe_s=3600)) as ward:
        ward.provider.ill = ProviderDown("refused")
        ward.readiness.check_soon()
        await until(lambda: ward.said.condition.state == "down")


async def test_models_that_come_and_go_are_said() -> None:
    """Of every provider the lane says now and then what it serves. Where nothing can be asked of it any more, it takes
    no work."""
    async with watched(timings=Timings(check_s=0.01, describe_s=0.02)) as ward:
        await until(lambda: ward.looks > 2)
        ward.blind = RateLimited()
        looks = ward.looks
        await until(lambda: ward.looks > looks + 1)
        assert ward.said.condition == UP
        ward.blind = Unauthorized("the key was changed")
        await until(lambda: ward.said.condition == ServerCondition(LaneState.DOWN, "the key was changed"))


async def test_a_chat_that_says_loading_is_believed_and_tried_again_more_and_more_slowly() -> None:
    """The page of health may say otherwise: the lane is tried all the same, with a longer pause each time."""
    loading = saying("loading", ProviderDown("HTTP 503"))
    ward, now = Ward(UP), 0.0
    ward.readiness._clock = lambda: now
    pauses = []
    for _ in range(3):
        assert not await ward.readiness.record_failure(loading)
        assert ward.said.condition.state == "loading"
        pauses.append(ward.readiness._until_check_s())
        now += 2
        await ward.readiness._check_when_due()
        assert ward.said.condition == UP
    assert pauses == sorted(pauses)
    assert pauses[-1] > pauses[0]
    ward.answer()
    assert not await ward.readiness.record_failure(loading)
    assert ward.readiness._until_check_s() == pauses[0]


def test_a_hosted_model_is_asked_less_often() -> None:
    """Who offers it to the whole world may count what it is asked."""

    async def pause_s(endpoint: str) -> float:
        provider = FakeProvider(endpoint=endpoint)
        return Readiness(
            provider, Availability(LANE), cast("Heartbeat", None), Runs(), nothing, Timings()
        )._until_check_s()

    async def nothing() -> None:
        """Has nothing new to say."""

    assert asyncio.run(pause_s("https://api.example.com")) > asyncio.run(pause_s("http://gpu1:8000"))


async def test_a_busy_server_that_is_slow_to_say_that_it_is_well_stays_up() -> None:
    """While its requests run they say how it is; what it serves is looked at all the same."""
    ward = Ward(UP, Timings(check_s=0.01, describe_s=0.02))
    ward.provider.ill = Timeout()
    runs = cast("Runs", ["a run"])
    ward.readiness._runs = runs
    async with background() as tasks:
        tasks.create_task(ward.readiness.run())
        await until(lambda: ward.looks > 2)
    assert (ward.provider.asked, ward.said.condition) == (0, UP)


async def test_a_server_whose_requests_fail_gets_one_at_a_time_after_a_pause() -> None:
    """Its health is good all the while. The lane is closed until the cooldown is over and while the trial runs, and
    accepts one request otherwise, until two have succeeded."""
    async with watched(timings=Timings(check_s=3600, describe_s=3600, cooldown_s=0.05)) as ward:
        ward.fail(LEAST_FAILED)
        condition = ward.said.condition
        assert (condition.state, ward.said.limit_of("chat"), ward.readiness.breaker_state) == ("down", 0, "open")
        assert ward.said.announced == LANE, "operators see the limit that the lane has otherwise"
        assert all(word in condition.why for word in ("5 of the last 5", "provider_down", "UTC"))
        await ward.said.wait_until_up()
        for number in range(2):
            assert (ward.said.limit_of("chat"), ward.readiness.breaker_state) == (1, "half-open")
            assert ward.said.announced.offer.limits == {"chat": 1}
            assert "one request at a time" in ward.said.condition.why
            ward.readiness.begin(AttemptKey(f"r{number}", 1), "chat")
            assert (ward.said.limit_of("chat"), ward.readiness.breaker_state) == (0, "half-open")
            ward.answer(f"r{number}")
        assert (ward.said.condition, ward.said.limit_of("chat"), ward.readiness.breaker_state) == (UP, 2, "closed")
        assert ward.provider.asked == 0


async def test_requests_that_still_run_do_not_stand_in_the_way_of_the_trial() -> None:
    """They began before; the lane accepts one more than these."""
    ward, now = Ward(UP), 0.0
    ward.readiness._clock = lambda: now
    ward.readiness._runs = cast("Runs", ["a run"])
    for _ in range(LEAST_FAILED):
        now += 1
        ward.fail(LEAST_FAILED)
    assert ward.said.limit_of("chat") == 0
    now += 3600
    ward.readiness.end(AttemptKey("another", 1))
    assert ward.said.limit_of("chat") == 2
    ward.readiness.begin(AttemptKey("a pull", 1), "command")
    assert ward.said.limit_of("chat") == 2
    ward.readiness.begin(AttemptKey("trial", 1), "chat")
    assert ward.said.limit_of("chat") == 0


async def test_a_trial_that_is_one_long_answer_lets_the_next_request_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker notices without a check of the model server that the answer has been arriving for a while."""
    monkeypatch.setattr(readiness, "LONG_ANSWER_S", 0.05)
    async with watched(timings=Timings(check_s=3600, describe_s=3600, cooldown_s=0.01)) as ward:
        ward.fail(LEAST_FAILED)
        await ward.said.wait_until_up()
        await asyncio.sleep(0)  # the watch waits again
        run = SimpleNamespace(key=AttemptKey("trial", 1), outlet=SimpleNamespace(first_put_at=None))
        ward.readiness._runs = cast("Runs", [run])
        ward.readiness.begin(run.key, "chat")
        assert ward.said.limit_of("chat") == 0
        run.outlet.first_put_at = ward.readiness._clock()
        await until(lambda: ward.said.limit_of("chat") == 2)


@pytest.mark.parametrize("looks", range(1, 9))
async def test_a_cooldown_that_ends_during_a_decision(looks: int) -> None:
    """The lane is either closed for a while or accepts one request, whenever the clock moves on."""
    ward, now = Ward(UP), 1_000.0
    ward.readiness._clock = lambda: now
    for _ in range(LEAST_FAILED):
        now += 1
        ward.fail(LEAST_FAILED)
    times = iter([now] * looks)
    ward.readiness._clock = lambda: next(times, now + 3600)
    ward.readiness.end(AttemptKey("another", 1))
    state, limit = ward.said.condition.state, ward.said.limit_of("chat")
    assert (state, limit) in (("down", 0), ("up", 1))


async def test_a_server_that_goes_down_is_judged_by_its_health_alone() -> None:
    """Once it is back, the lane is open, whatever failed before."""
    async with watched(timings=Timings(check_s=0.01, cooldown_s=3600)) as ward:
        ward.fail(LEAST_FAILED)
        ward.provider.ill = ProviderDown("refused")
        await until(lambda: "refused" in ward.said.condition.why)
        ward.fail(LEAST_FAILED)
        ward.provider.ill = None
        await until(lambda: ward.said.condition == UP)
        assert (ward.said.limit_of("chat"), ward.readiness.breaker_state) == (2, "closed")


@pytest.mark.parametrize("error", [RateLimited(retry_after_s=60), ProviderDown(retry_after_s=60)])
async def test_a_server_that_asks_for_a_pause_gets_no_requests_until_it_is_over(error: LlmError) -> None:
    """The pool knows before the request is given back. Once the pause is over, the lane accepts all its requests."""
    async with watched(timings=Timings(check_s=3600, describe_s=3600)) as ward:
        ward.fail(1, error)
        condition = ward.said.condition
        assert (condition.state, ward.said.limit_of("chat"), ward.readiness.breaker_state) == ("paused", 0, "closed")
        assert all(words in condition.why for words in (error.code, "UTC"))
        ward.announced.log.clear()
        assert await ward.readiness.record_failure(error)
        assert condition in ward.announced.log
        ward.answer("r1")
        assert ward.said.condition == condition
        ends_at = ward.readiness._pause.ends_at
        ward.readiness._clock = lambda: ends_at
        ward.readiness._wake.set()
        await ward.said.wait_until_up()
        assert (ward.said.condition, ward.said.limit_of("chat")) == (UP, 2)


async def test_a_pause_is_announced_during_a_health_check() -> None:
    """Which may take a while at a server that is busy."""
    ward, error = Ward(UP), RateLimited(retry_after_s=60)
    ward.fail(1, error)
    async with ward.readiness._check_lock, asyncio.timeout(5):
        assert await ward.readiness.record_failure(error)
    assert ward.announced.log[-1].state == "paused"


async def test_a_pause_ends_by_itself() -> None:
    """No request and no check is needed for that."""
    async with watched(timings=Timings(check_s=3600, describe_s=3600)) as ward:
        ward.fail(1, RateLimited(retry_after_s=0.05))
        assert ward.said.condition.state == "paused"
        await ward.said.wait_until_up()
        assert ward.announced.log[-1] == UP


async def test_an_open_breaker_tries_no_request_before_the_pause_is_over() -> None:
    """The lane is down meanwhile, since its server fails requests, and the reason gives the later of the two times."""
    ward, now = Ward(UP), 1_000.0
    ward.readiness._clock = lambda: now
    for _ in range(LEAST_FAILED):
        now += 1
        ward.fail(LEAST_FAILED, ProviderDown(retry_after_s=60))
    assert (ward.said.condition.state, ward.readiness.breaker_state) == ("down", "open")
    now += 59
    ward.readiness.end(AttemptKey("another", 1))
    assert (ward.said.limit_of("chat"), ward.readiness.breaker_state) == (0, "half-open")
    now += 1
    ward.readiness.end(AttemptKey("another", 1))
    assert ward.said.limit_of("chat") == 1


async def test_a_server_that_went_down_pauses_no_longer() -> None:
    """Its health checks show when it works again."""
    async with watched(timings=Timings(check_s=0.01)) as ward:
        ward.fail(1, ProviderDown(retry_after_s=3600))
        ward.provider.ill = ProviderDown("refused")
        await until(lambda: ward.said.condition.state == "down")
        ward.provider.ill = None
        await until(lambda: ward.said.condition == UP)


async def test_refused_requests_do_not_open_the_breaker() -> None:
    """Nor does its health check open a lane that the breaker closed."""
    ward = Ward(UP)
    for error in (BadRequest(), RateLimited(retryable=False), Unauthorized()):
        ward.fail(5 * LEAST_FAILED, error)
    assert (ward.said.condition, ward.said.most_at_once) == (UP, None)
    ward.fail(LEAST_FAILED)
    await ward.readiness._check_when_due()
    assert ward.said.condition.state == "down"


async def test_opening_and_closing_of_the_breaker_are_warnings(caplog: pytest.LogCaptureFixture) -> None:
    """What comes between is not, however often the trials fail."""
    async with watched(timings=Timings(check_s=3600, describe_s=3600, cooldown_s=0.01)) as ward:
        ward.fail(LEAST_FAILED)
        for _ in range(2):
            await ward.said.wait_until_up()
            ward.fail(1)
        await ward.said.wait_until_up()
        ward.answer("r1")
        ward.answer("r2")
    assert [record.levelname for record in caplog.records].count("WARNING") == 2
