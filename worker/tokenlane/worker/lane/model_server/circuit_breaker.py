"""The circuit breaker of a lane, which keeps requests from a model server that fails them although its health is good.

    closed ──most requests fail──▶ open ──cooldown over──▶ half-open ──two answers in a row──▶ closed
                                    ▲                          │
                                    └────────a failure─────────┘

While the breaker is open, no request starts. While it is half-open, one request at a time does: the trial. The breaker
only decides; `Readiness` feeds it and closes the lane. All times are in seconds on one clock, which the caller reads
once for each decision.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from tokenlane.routing.contract.errors import Interrupted, LlmError, ProviderDown, Timeout, UnreadableAnswer
from tokenlane.routing.contract.worker_report import BreakerState
from tokenlane.worker.lane.attempt_key import AttemptKey

_KEPT_OUTCOMES = 20
_KEPT_S = 600.0
"""Long enough for five requests that each run into a time limit."""
LEAST_FAILED = 5
"""How many requests must have failed before the breaker opens."""
_FAILED_SHARE = 0.5
_ENOUGH_ANSWERS = 2
LONGEST_COOLDOWN_S = 60.0
LONG_ANSWER_S = 10.0
"""For how long a trial's answer must have arrived to count as an answer before its end."""


@dataclass(frozen=True)
class Outcome:
    """How the model server treated an attempt.

    `model`: the model that its request named. `code`: the error's code, empty for an answer.
    """

    attempt: AttemptKey
    model: str
    began_at: float
    ended_at: float
    code: str = ""


def is_servers_fault(error: Exception) -> bool:
    """Whether an error speaks against the model server: it failed, was not reached, took too long, broke off its answer
    or sent one that cannot be read. A refusal with a 4xx status never does."""
    if not isinstance(error, LlmError):
        return True  # a provider that cannot handle the server's answer
    is_refusal = error.http_status is not None and 400 <= error.http_status < 500
    return not is_refusal and isinstance(error, ProviderDown | Timeout | Interrupted | UnreadableAnswer)


def _failed(outcomes: Iterable[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.code]


class CircuitBreaker:
    """Decides from the outcomes of a lane's requests whether another request may start.

    The breaker opens if at least five different requests have failed, and for each model at least half of the latest
    ones. One of them must have begun after another had failed: what breaks all running answers at once may be over.
    A model that works keeps the breaker closed, since the server works then.

    Each time the breaker opens again, the cooldown doubles, until the breaker was closed for as long as the longest
    cooldown. During a cooldown, a further failure extends it, and nothing shortens it.

    Args:
        cooldown_s: the first cooldown.
    """

    def __init__(self, cooldown_s: float = 2.0) -> None:
        self._first_cooldown_s = cooldown_s
        self.reset()

    def reset(self) -> None:
        """Close the breaker and forget all outcomes, because the model server as a whole is away or is new."""
        self._outcomes: deque[Outcome] = deque(maxlen=_KEPT_OUTCOMES)
        self._cooldown_s = 0.0
        self._closed_at = -math.inf
        self._retry_at: float | None = None
        self.trial: AttemptKey | None = None
        """The request that runs as the trial; None if there is none."""
        self._answers = 0

    def state(self, now: float) -> BreakerState:
        """The state at this time. An open breaker becomes half-open by itself when its cooldown is over."""
        if self._retry_at is None:
            return "closed"
        return "open" if now < self._retry_at else "half-open"

    @property
    def retry_at(self) -> float:
        """When the cooldown is over, or was; infinity while the breaker is closed."""
        return math.inf if self._retry_at is None else self._retry_at

    def is_trying(self, now: float) -> bool:
        """Whether the breaker is half-open and its trial runs."""
        return self.state(now) == "half-open" and self.trial is not None

    def lets_start(self, now: float) -> bool:
        """Whether a request may start at this time."""
        state = self.state(now)
        return state == "closed" or (state == "half-open" and self.trial is None)

    def record_long_answer(self, attempt: AttemptKey, now: float) -> None:
        """Record that an attempt's answer has been arriving for `LONG_ANSWER_S`. If the attempt is the trial, that
        counts as an answer, so that a long answer does not keep the lane closed until its end."""
        if self.state(now) == "half-open" and attempt == self.trial:
            self._count_answer(now)

    @property
    def failures(self) -> str:
        """How many of the latest requests failed, as part of a sentence."""
        failed = _failed(self._outcomes)
        newest = f", the newest with {failed[-1].code}" if failed else ""
        return f"{len(failed)} of the last {len(self._outcomes)} requests failed{newest}"

    def begin(self, attempt: AttemptKey, now: float) -> None:
        """Record that an attempt starts. If the breaker is half-open, the attempt is the trial."""
        if self.state(now) == "half-open" and self.trial is None:
            self.trial = attempt

    def end(self, attempt: AttemptKey) -> None:
        """Record that an attempt has ended. If it was the trial and has shown nothing, for example because it was
        cancelled, another may be the trial."""
        if attempt == self.trial:
            self.trial = None

    def record(self, outcome: Outcome) -> None:
        """Record how the model server treated an attempt, which has just ended."""
        now = outcome.ended_at
        if outcome.code:  # several attempts of one request count once: the request may be the cause
            others = [
                known
                for known in self._outcomes
                if not (known.code and known.attempt.request == outcome.attempt.request)
            ]
            self._outcomes = deque(others, maxlen=_KEPT_OUTCOMES)
        self._outcomes.append(outcome)
        match self.state(now):
            case "closed" if outcome.code and self._is_failing(now):
                self._open(now)
            case "half-open" if outcome.code:
                self._open(now)
            case "open" if outcome.code:
                self._extend(now)
            case "half-open" if outcome.attempt == self.trial:
                self._count_answer(now)

    def _count_answer(self, now: float) -> None:
        self.trial = None
        self._answers += 1
        if self._answers >= _ENOUGH_ANSWERS:
            self._outcomes.clear()
            self._retry_at, self._closed_at = None, now

    def _is_failing(self, now: float) -> bool:
        oldest = now - _KEPT_S
        recent = [outcome for outcome in self._outcomes if outcome.ended_at >= oldest]
        failed = _failed(recent)
        if len(failed) < LEAST_FAILED or all(outcome.began_at <= failed[0].ended_at for outcome in failed):
            return False
        of_models = ([each for each in recent if each.model == model] for model in {each.model for each in recent})
        return all(len(_failed(outcomes)) >= _FAILED_SHARE * len(outcomes) for outcomes in of_models)

    def _open(self, now: float) -> None:
        is_relapse = self._retry_at is not None or now < self._closed_at + LONGEST_COOLDOWN_S
        longer_s = 2 * self._cooldown_s if is_relapse else self._first_cooldown_s
        self._cooldown_s = min(longer_s, LONGEST_COOLDOWN_S)
        self.trial, self._answers = None, 0
        self._extend(now)

    def _extend(self, now: float) -> None:
        self._retry_at = max(self._retry_at or -math.inf, now + self._cooldown_s)
