"""The circuit breaker opens on failures of the model server alone, and lets one request at a time find out whether the
server works again."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tokenlane.routing.contract.errors import (
    BadRequest,
    Interrupted,
    LlmError,
    ModelNotFound,
    NoToolCall,
    ProviderDown,
    RateLimited,
    Timeout,
    Unauthorized,
    UnreadableAnswer,
)
from tokenlane.routing.contract.worker_report import BreakerState
from tokenlane.worker.lane.attempt_key import AttemptKey
from tokenlane.worker.lane.model_server.circuit_breaker import (
    LEAST_FAILED,
    LONGEST_COOLDOWN_S,
    CircuitBreaker,
    Outcome,
    is_servers_fault,
)

COOLDOWN_S = 2.0


def first(request: str) -> AttemptKey:
    """The first attempt of a request."""
    return AttemptKey(request, 1)


class Server:
    """A breaker with a clock, and requests that take a second each."""

    def __init__(self) -> None:
        self.now = 0.0
        self.breaker = CircuitBreaker(COOLDOWN_S)
        self.numbers = count()

    def run(
        self,
        code: str = "",
        *,
        request: str = "",
        model: str = "m",
        began_at: float | None = None,
    ) -> None:
        """Run a request to its end; `code`: that of its error."""
        name = request or f"r{next(self.numbers)}"
        began_at = self.now if began_at is None else began_at
        self.begin(first(name))
        self.now += 1
        self.breaker.record(Outcome(first(name), model, began_at, self.now, code))
        self.breaker.end(first(name))

    def fail(self, times: int, model: str = "m") -> None:
        for _ in range(times):
            self.run("provider_down", model=model)

    def is_closed(self) -> bool:
        return self.state == "closed"

    @property
    def state(self) -> BreakerState:
        return self.breaker.state(self.now)

    @property
    def lets_start(self) -> bool:
        return self.breaker.lets_start(self.now)

    @property
    def is_trying(self) -> bool:
        return self.breaker.is_trying(self.now)

    def begin(self, attempt: AttemptKey) -> None:
        self.breaker.begin(attempt, self.now)

    def record_long_answer(self, attempt: AttemptKey) -> None:
        self.breaker.record_long_answer(attempt, self.now)

    def cool_down(self) -> None:
        self.now = self.breaker.retry_at


def refused(error: LlmError, status: int) -> LlmError:
    """The error of a server that answered with this HTTP status."""
    error.http_status = status
    return error


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (refused(ProviderDown(), 500), True),
        (refused(ProviderDown(), 503), True),
        (ProviderDown("refused"), True),
        (ProviderDown(retryable=False), True),
        (Timeout(), True),
        (Interrupted(retryable=True), True),
        (UnreadableAnswer(), True),
        (KeyError("choices"), True),
        (BadRequest(), False),
        (Unauthorized(), False),
        (ModelNotFound(), False),
        (RateLimited(), False),
        (NoToolCall(), False),
        *((refused(error, status), False) for error in (ProviderDown(), Timeout()) for status in (400, 407, 408, 499)),
    ],
)
def test_which_errors_speak_against_the_server(error: Exception, counts: bool) -> None:
    """Whatever the class of the error, a 4xx status does not."""
    assert is_servers_fault(error) == counts


def test_it_opens_once_enough_requests_have_failed() -> None:
    """The cooldown counts from the newest failure, and the reason names how many failed and why."""
    server = Server()
    server.run()
    server.fail(LEAST_FAILED - 1)
    assert server.is_closed()
    server.run("timeout")
    assert (server.state, server.lets_start) == ("open", False)
    assert server.breaker.retry_at == server.now + COOLDOWN_S
    assert all(word in server.breaker.failures for word in ("5 of the last 6", "timeout"))


def test_a_server_that_answers_most_requests_keeps_it_closed() -> None:
    """Below half of the latest requests, other lanes and tries make up for the failures."""
    server = Server()
    for _ in range(4 * LEAST_FAILED):
        server.run()
        server.run()
        server.fail(1)
    assert server.is_closed()


def test_one_request_that_always_fails_keeps_it_closed() -> None:
    """A request may be the cause of its failures, however often it is tried."""
    server = Server()
    for _ in range(10 * LEAST_FAILED):
        server.run("provider_down", request="poison")
    assert server.is_closed()
    server.fail(LEAST_FAILED - 1)
    assert not server.is_closed()


def test_one_event_that_breaks_all_running_answers_keeps_it_closed() -> None:
    """Only a request that began after another had failed shows that the server goes on failing."""
    server = Server()
    for _ in range(10 * LEAST_FAILED):
        server.run("interrupted", began_at=0.0)
    assert server.is_closed()
    server.run("interrupted")
    assert not server.is_closed()


def test_a_model_that_works_keeps_it_closed() -> None:
    """The breaker of a lane would take the lane's other models with it."""
    server = Server()
    for _ in range(LEAST_FAILED):
        server.fail(3, "broken")
        server.run(model="good")
    assert server.is_closed()
    server.fail(LEAST_FAILED, "good")
    assert not server.is_closed()


def test_old_failures_do_not_count() -> None:
    """A lane that is rarely asked does not open for failures of long ago."""
    server = Server()
    server.fail(LEAST_FAILED - 1)
    server.now += 3600
    server.fail(LEAST_FAILED - 1)
    assert server.is_closed()


def test_two_answers_in_a_row_close_it() -> None:
    """Each from one request at a time. Then all past failures are forgotten."""
    server = Server()
    server.fail(LEAST_FAILED)
    server.cool_down()
    assert (server.state, server.lets_start) == ("half-open", True)
    server.run()
    assert (server.state, server.lets_start) == ("half-open", True)
    server.run()
    assert server.is_closed()
    server.fail(LEAST_FAILED - 1)
    assert server.is_closed()


def test_only_the_trial_closes_it() -> None:
    """While it runs no other request starts; answers of requests that ran before show nothing."""
    server, breaker = (made := Server()), made.breaker
    server.fail(LEAST_FAILED)
    server.cool_down()
    server.begin(first("trial"))
    assert (server.is_trying, server.lets_start) == (True, False)
    for name in ("before", "before2"):
        breaker.record(Outcome(first(name), "m", 0.0, server.now))
        breaker.end(first(name))
    assert (server.is_trying, server.lets_start) == (True, False)
    breaker.end(first("trial"))
    assert (server.is_trying, server.lets_start) == (False, True), "it ended without an outcome"
    server.begin(first("another"))
    assert server.is_trying


def test_an_outdated_attempt_does_not_end_the_trial_of_its_request() -> None:
    """A worker may still run an attempt when its request comes back to the lane. Neither its end nor its answer is
    that of the trial."""
    server, breaker = (made := Server()), made.breaker
    server.fail(LEAST_FAILED)
    server.cool_down()
    server.begin(AttemptKey("r", 2))
    server.record_long_answer(AttemptKey("r", 1))
    breaker.record(Outcome(AttemptKey("r", 1), "m", 0.0, server.now))
    breaker.end(AttemptKey("r", 1))
    assert (server.is_trying, server.lets_start) == (True, False)
    breaker.end(AttemptKey("r", 2))
    assert server.lets_start


def test_a_failed_trial_opens_it_for_longer() -> None:
    """The cooldown doubles up to its limit, and after a relapse goes on from where it was."""
    server, cooldowns = Server(), []
    server.fail(LEAST_FAILED)
    for _ in range(7):
        server.cool_down()
        server.fail(1)
        cooldowns.append(server.breaker.retry_at - server.now)
    assert cooldowns == [4, 8, 16, 32, 60, 60, 60]
    server.cool_down()
    server.run()
    server.run()
    server.fail(LEAST_FAILED)
    assert server.breaker.retry_at == server.now + LONGEST_COOLDOWN_S
    server.cool_down()
    server.run()
    server.run()
    server.now += 2 * LONGEST_COOLDOWN_S
    server.fail(LEAST_FAILED)
    assert server.breaker.retry_at == server.now + COOLDOWN_S


def test_a_failure_during_a_cooldown_extends_it() -> None:
    """Long requests may fail after the breaker has opened."""
    server = Server()
    server.fail(LEAST_FAILED)
    server.fail(1)
    assert server.breaker.retry_at == server.now + COOLDOWN_S


def test_a_long_answer_counts_before_its_end() -> None:
    """So does the next one, and the lane is open while both go on. The end of such an answer counts no second time."""
    server = Server()
    server.fail(LEAST_FAILED)
    server.cool_down()
    server.begin(first("long"))
    server.record_long_answer(first("another"))
    assert not server.lets_start
    server.record_long_answer(first("long"))
    server.breaker.record(Outcome(first("long"), "m", server.now, server.now))
    assert (server.is_closed(), server.lets_start) == (False, True)
    server.begin(first("second"))
    server.record_long_answer(first("second"))
    assert server.is_closed()


def test_a_long_answer_that_fails_opens_it_again() -> None:
    """What it delivered before is no evidence any longer."""
    server = Server()
    server.fail(LEAST_FAILED)
    server.cool_down()
    server.begin(first("long"))
    server.record_long_answer(first("long"))
    server.run("interrupted", request="long")
    assert server.state == "open"


def test_a_server_that_went_away_starts_afresh() -> None:
    """Then its health checks decide, and the next server may be another."""
    server = Server()
    server.fail(LEAST_FAILED)
    server.breaker.reset()
    assert (server.state, server.lets_start) == ("closed", True)
    server.fail(LEAST_FAILED - 1)
    assert server.is_closed()
    server.fail(1)
    assert server.breaker.retry_at == server.now + COOLDOWN_S


@given(st.lists(st.sampled_from([BadRequest, Unauthorized, ModelNotFound, RateLimited, NoToolCall]), min_size=1))
def test_refusals_never_open_it(kinds: list[type[LlmError]]) -> None:
    """However many come, no breaker ever hears of them."""
    assert not any(is_servers_fault(kind()) for kind in kinds)


class Traffic(RuleBasedStateMachine):
    """Requests that start whenever the breaker lets them, end in any order, and time that passes."""

    @initialize()
    def open_the_breaker(self) -> None:
        self.server = Server()
        self.breaker = self.server.breaker
        self.running: dict[str, float] = {}
        self.trials: set[str] = set()
        self.retry_at = float("-inf")

    @rule()
    def start(self) -> None:
        """Start a request, if one may start."""
        if not self.server.lets_start:
            return
        name = f"r{next(self.server.numbers)}"
        if self.server.state == "half-open":
            self.trials.add(name)
        self.server.begin(first(name))
        self.running[name] = self.server.now

    @precondition(lambda self: self.running)
    @rule(data=st.data(), code=st.sampled_from(["", "", "timeout", "provider_down"]))
    def finish(self, data: st.DataObject, code: str) -> None:
        """End a request with an answer or an error."""
        name = data.draw(st.sampled_from(sorted(self.running)))
        self.breaker.record(Outcome(first(name), "m", self.running[name], self.server.now, code))
        self._end(name)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """End a request as cancelled, refused or taken by another worker."""
        self._end(data.draw(st.sampled_from(sorted(self.running))))

    def _end(self, name: str) -> None:
        self.breaker.end(first(name))
        del self.running[name]
        self.trials.discard(name)

    @rule(passed_s=st.floats(0, 100))
    def wait(self, passed_s: float) -> None:
        self.server.now += passed_s

    @invariant()
    def one_trial_at_a_time(self) -> None:
        """A trial that an older request's failure made void may still run while the next one starts."""
        if self.server.state == "half-open":
            assert self.server.lets_start == (not self.server.is_trying)
        if self.server.state == "open":
            assert not self.server.lets_start
            self.trials.clear()
        assert len(self.trials) <= 1 or self.server.state == "closed"
        if self.server.state == "closed":
            self.trials.clear()

    @invariant()
    def a_cooldown_never_shortens(self) -> None:
        if self.server.state == "closed":
            self.retry_at = float("-inf")
            return
        assert self.breaker.retry_at >= self.retry_at
        assert self.breaker.retry_at <= self.server.now + LONGEST_COOLDOWN_S
        self.retry_at = self.breaker.retry_at


TestTraffic = Traffic.TestCase
