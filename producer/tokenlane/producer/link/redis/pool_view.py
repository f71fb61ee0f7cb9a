"""A client's view of its pool, taken from the replies to its beats."""

from __future__ import annotations

from math import inf

from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.decide.wait_cause import PoolFacts, Wait, WaitingRequest
from tokenlane.routing.store.beats import CheckReply

from .timings import Timings

_BEFORE_THE_FIRST_BEAT = CheckReply(
    routers=1, known_lanes=1, revision=0, lease_ms=Policy().lease_ms, patience_ms=Policy().patience_ms
)


class PoolView:
    """The pool as one client sees it.

    Attributes:
        server: the pool and its server in messages.
        is_away: whether the pool has stopped answering.
        checked: the reply to the last beat.
        policy: the pool's policy when the client last read it. The client reads it only while a request waits.

    Args:
        pool: the pool's name.
    """

    def __init__(self, timings: Timings, pool: str = "main", server: str = "this pool") -> None:
        self.server = server
        self.is_away = False
        self.checked = _BEFORE_THE_FIRST_BEAT
        self.policy = Policy()
        self._pool = pool
        self._timings = timings
        self._deserted_since = inf

    @property
    def all_heard_s(self) -> float:
        """The time within which every live worker sends a beat, in seconds."""
        return self._timings.all_heard_ms(self.checked.lease_ms) / 1000

    @property
    def needs_policy(self) -> bool:
        """Whether explaining why requests wait needs a policy that the client has not read yet."""
        return self.checked.lanes is not None and self.policy.revision != self.checked.revision

    @property
    def is_empty(self) -> bool:
        """Whether no router is alive, and no lane has had a worker in the last hour."""
        return not (self.checked.routers or self.checked.known_lanes)

    def update(self, checked: CheckReply, now: float) -> None:
        """Store the reply to a beat. `now` is the time on the loop's clock."""
        self.is_away, self.checked = False, checked
        self._deserted_since = min(self._deserted_since, now) if self.is_empty else inf

    def is_deserted(self, opened_at: float, now: float) -> bool:
        """Whether the client must give up a request, opened at that time, for which no worker will come.

        No worker was connected in the hour before, and none has connected for as long as the policy lets requests wait.
        While a router lives, the router fails such requests.
        """
        patience_s = max(self.checked.patience_ms / 1000, self.all_heard_s)
        return now - max(self._deserted_since, opened_at) >= patience_s

    def explain(self, request: WaitingRequest) -> Wait | str:
        """Why a request has not started, or why an answer that broke off does not go on."""
        checked = self.checked
        if checked.lanes is None and not self.is_empty:
            role = f" of role {request.queue.role!r}" if request.queue else ""
            return f"waiting in the queue{role}"  # until the reply to the next beat has the lanes
        return Wait(
            PoolFacts(self._pool, self.policy, checked.lanes or (), checked.routers > 0, checked.paused), request
        )
