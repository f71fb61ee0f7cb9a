"""A client's view of its pool, taken from the reply to its last beat, and why a request waits."""

from __future__ import annotations

import re
from math import inf

from tokenlane.routing.contract.envelope import Envelope, Needs
from tokenlane.routing.decide.candidates import candidates, served_name
from tokenlane.routing.decide.lanes.fallback_lane import of_model_servers
from tokenlane.routing.decide.no_candidate import why_closed
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.beats import CheckReply
from tokenlane.routing.store.request_life import RequestStatus

from .timings import Timings

_CHANGES = re.compile(r" \(last seen \d+ s ago\)|, starts in about \d+ \w+")
_NO_NEEDS = Needs()
_BEFORE_THE_FIRST_BEAT = CheckReply(
    routers=1,
    lanes=1,
    absent=(),
    revision=0,
    pulls={},
    statuses=(),
    lease_ms=Policy().lease_ms,
    patience_ms=Policy().patience_ms,
)


def without_changing_parts(reason: str) -> str:
    """Remove from a reason what changes all the time: how long ago each lane was last seen, and the estimated start."""
    return _CHANGES.sub("", reason)


class PoolView:
    """The pool as one client sees it.

    Attributes:
        pool: the pool's name in messages.
        is_away: whether the pool has stopped answering.
        checked: the reply to the last beat.
        policy: the pool's policy when the client last read it. The client reads it only while lanes are absent.
    """

    def __init__(self, timings: Timings, pool: str = "this pool") -> None:
        self.pool = pool
        self.is_away = False
        self.checked = _BEFORE_THE_FIRST_BEAT
        self.policy = Policy()
        self._timings = timings
        self._deserted_since = inf

    @property
    def all_heard_s(self) -> float:
        """The time within which every live worker sends a beat, in seconds."""
        return self._timings.all_heard_ms(self.checked.lease_ms) / 1000

    @property
    def needs_policy(self) -> bool:
        """Whether explaining why requests wait needs a policy that the client has not read yet."""
        return bool(self.checked.absent) and self.policy.revision != self.checked.revision

    @property
    def idle_reason(self) -> str | None:
        """Why the pool serves no request; None while it has a router and a lane."""
        if self.checked.routers and self.checked.lanes:
            return None
        start_one = "" if self.checked.absent else ": start one with `tokenlane worker`"
        return f"no worker is connected to this pool{start_one}"

    def update(self, checked: CheckReply, now: float) -> None:
        """Store the reply to a beat. `now` is the time on the loop's clock."""
        self.is_away, self.checked = False, checked
        deserted = not (checked.routers or checked.lanes or checked.absent)
        self._deserted_since = min(self._deserted_since, now) if deserted else inf

    def is_deserted(self, opened_at: float, now: float) -> bool:
        """Whether the client must give up a request, opened at that time, for which no worker will come.

        No worker was connected in the hour before, and none has connected for as long as the policy lets requests wait.
        While a router lives, the router fails such requests.
        """
        patience_s = max(self.checked.patience_ms / 1000, self.all_heard_s)
        return now - max(self._deserted_since, opened_at) >= patience_s

    def why_queued(self, role: str, needs: Needs = _NO_NEEDS) -> str:
        """Why a request of this role waits, as far as the last beat shows."""
        wanted = {"provider": needs.provider, "model": needs.model}
        which = " and ".join(f"{what} {name!r}" for what, name in wanted.items() if name)
        lane = f"lane {needs.lane!r}" if needs.lane else "a lane"
        a_lane = f"{lane} with {which}" if which else lane
        return self.idle_reason or f"waiting in the queue of role {role!r} until {a_lane} can accept the request"

    def why_waiting(self, role: str, envelope: Envelope | None, status: RequestStatus) -> str:
        """Why a request has not started.

        Args:
            envelope: None if another client sent it.
        """
        queued = self.why_queued(role, envelope.needs if envelope is not None else _NO_NEEDS)
        return self._why_queued(role, envelope, status, queued)

    def why_broken_off(
        self, role: str, envelope: Envelope | None, status: RequestStatus, *, lane: str, model: str
    ) -> str:
        """Why no lane continues an answer that broke off.

        Args:
            envelope: None if another client sent it.
            lane: the lane on which the answer broke off; '' if that is not known.
            model: the model that wrote the answer; '' if that is not known.
        """
        if envelope is not None and model:
            needs = envelope.needs.model_copy(update={"continues": model})
            envelope = envelope.model_copy(update={"needs": needs})
        where = f" on lane {lane!r}" if lane else ""
        why = self._why_queued(role, envelope, status, "waiting for a lane that can continue it")
        return f"the answer broke off{where}; {why}"

    def _why_queued(self, role: str, envelope: Envelope | None, status: RequestStatus, queued: str) -> str:
        away, unready = self._absent_candidates(role, envelope)
        if self.idle_reason:
            return self.idle_reason + (f"; waiting for lane {away}" if away else "")
        if status.state == "waiting" and role in self.checked.paused:
            return f"an operator paused role {role!r}"
        if pull := self._pull(envelope):
            return pull
        if status.state == "dispatched":
            return f"dispatched to a lane that serves role {role!r}, and about to start"
        if status.state == "delayed":
            return "an attempt failed; the next one starts soon"
        reasons = [f"{queued}: {status.place}" if status.place else queued, *unready]
        return "; ".join([*reasons, f"lanes that are away: {away}"] if away else reasons)

    def _absent_candidates(self, role: str, envelope: Envelope | None) -> tuple[str, list[str]]:
        """The lanes that may serve the request but accept no work now.

        Returns:
            The names of the lanes whose workers are away, and a reason for each of the other lanes.
        """
        needs, kind = (envelope.needs, envelope.kind) if envelope is not None else (_NO_NEEDS, "chat")
        absent = candidates(self.policy, role, needs, of_model_servers(self.checked.absent), kind)
        lanes = [lane for lane, _ in absent if not lane.has_left]
        away = [f"{lane.name!r} (last seen {lane.beat_ms / 1000:.0f} s ago)" for lane in lanes if lane.state.is_away]
        return ", ".join(away), [why_closed(lane) for lane in lanes if lane.is_closed]

    def _pull(self, envelope: Envelope | None) -> str | None:
        """The progress of a pull of the request's model, or of any model if the request names none."""
        wanted = envelope.needs.model if envelope is not None else None
        for lane, models in self.checked.pulls.items():
            for model, progress in models.items():
                if wanted is None or served_name(wanted, (model,)) is not None:
                    return f"lane {lane!r} pulls {model!r}: {progress}"
        return None
