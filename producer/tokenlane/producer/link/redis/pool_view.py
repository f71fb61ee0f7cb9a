"""What a client's last beat showed of its pool, and why requests wait by that."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tokenlane.producer.link.link import Timings
from tokenlane.routing.contract.envelope import Envelope, Needs
from tokenlane.routing.contract.results import Progress
from tokenlane.routing.decide.candidates import candidates, served_name
from tokenlane.routing.decide.lanes.fallback import of_back_ends
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.decide.no_candidate import why_unready
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.beats import Checked
from tokenlane.routing.store.request_life import Standing

_AGE = re.compile(r" \(last seen \d+ s ago\)")


def without_ages(why: str) -> str:
    """Why a request waits, without for how long lanes have been away: that is another word every second."""
    return _AGE.sub("", why)


class PoolView:
    """The pool as one client sees it.

    Attributes:
        is_away: whether the pool does not answer.
        idle_reason: why nothing is served; None while a router and a lane live.
        lease_ms: the policy's.
        policy: the pool's; None before it was needed, which is while lanes are absent.
    """

    def __init__(self, timings: Timings) -> None:
        self.is_away = False
        self.idle_reason: str | None = None
        self.lease_ms = Policy().lease_ms
        self.policy: Policy | None = None
        self._timings = timings
        self._patience_ms = Policy().patience_ms
        self._absent: tuple[LaneView, ...] = ()
        self._pulls: Mapping[str, Mapping[str, Progress]] = {}
        self._deserted_since: float | None = None

    @property
    def all_heard_s(self) -> float:
        """Within that time every worker that lives has beaten."""
        return self._timings.all_heard_ms(self.lease_ms) / 1000

    def update(self, checked: Checked, now: float) -> None:
        """Take in what the pool has answered to a beat, at that time of the loop."""
        self.is_away = False
        self._absent, self._pulls = of_back_ends(checked.absent), checked.pulls
        self.lease_ms, self._patience_ms = checked.lease_ms, checked.patience_ms
        self.idle_reason = None
        if not (checked.routers and checked.lanes):
            start_one = "" if checked.absent else ": start one with `tokenlane worker`"
            self.idle_reason = f"no worker is connected to this pool{start_one}"
        if checked.routers or checked.lanes or checked.absent:
            self._deserted_since = None
        elif self._deserted_since is None:
            self._deserted_since = now

    def needs_policy(self, checked: Checked) -> bool:
        """Whether saying why requests wait takes the pool's policy, and it is not known or has changed."""
        return bool(checked.absent) and (self.policy is None or self.policy.revision != checked.revision)

    def is_deserted(self, opened_at: float, now: float) -> bool:
        """Whether no worker is coming for a request that was opened then: nobody has been there for as long as a
        request waits for one, and nobody was within the hour. Where a router lives, it is the one to say so."""
        if self._deserted_since is None:
            return False
        patience_s = max(self._patience_ms / 1000, self.all_heard_s)
        return now - max(self._deserted_since, opened_at) >= patience_s

    def why_queued(self, role: str) -> str:
        """Why a request waits of which nothing is known but its role."""
        return self.idle_reason or f"waiting in the queue of role {role!r}"

    def why_waiting(self, role: str, envelope: Envelope | None, standing: Standing) -> str:
        """Why a request has not started.

        Args:
            envelope: None if another client has sent it.
        """
        away, unready = self._awaited(role, envelope)
        if self.idle_reason:
            return self.idle_reason + (f"; waiting for lane {away}" if away else "")
        if pull := self._pull(envelope):
            return pull
        if standing.state == "dispatched":
            return f"given to a lane that serves role {role!r}, which is about to start it"
        if standing.state == "delayed":
            return "an attempt failed; it is tried again soon"
        reasons = [self.why_queued(role), *unready]
        return "; ".join([*reasons, f"lanes that are away: {away}"] if away else reasons)

    def _awaited(self, role: str, envelope: Envelope | None) -> tuple[str, list[str]]:
        """The lanes that may serve the request and take no work now: those whose workers are away, and why others take
        none."""
        if self.policy is None:
            return "", []
        needs, kind = (envelope.needs, envelope.kind) if envelope is not None else (Needs(), "chat")
        absent = [lane for lane, _ in candidates(self.policy, role, needs, self._absent, kind)]
        lanes = [lane for lane in absent if not lane.has_left]
        away = [lane for lane in lanes if lane.state.is_away]
        return (
            ", ".join(f"{lane.name!r} (last seen {lane.beat_ms / 1000:.0f} s ago)" for lane in away),
            [why_unready(lane) for lane in lanes if lane.state.is_unready],
        )

    def _pull(self, envelope: Envelope | None) -> str | None:
        """The pull that the request may wait for: of its model, or of any if it names none."""
        asked = envelope.needs.model if envelope is not None else None
        for lane, models in self._pulls.items():
            for model, progress in models.items():
                if asked is None or served_name(asked, (model,)) is not None:
                    return f"lane {lane!r} pulls {model!r}: {progress}"
        return None
