"""Intervals and timeouts of a client's link to a pool in Redis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokenlane.routing.decide.policy import all_heard_ms


@dataclass(frozen=True)
class Timings:
    """All times are in seconds, except for `all_heard_ms`. Tests set shorter ones.

    Attributes:
        beat_every_s: between two beats, and the silence after which the client checks a request; at most a third of the
            pool's lease, so that agents notice a worker's death within a lease and a second.
        retry_every_s: between two beats, and between two attempts to submit or cancel a request, while the pool does
            not answer.
        replay_every_s: between two messages that ask a worker to publish missing messages again.
        possible_gap_replay_every_s: the same if messages may be missing, but no gap is known.
        last_message_s: how long the last message of an ended request may still take to arrive, if no worker can repeat
            it.
        ended_patience_s: how long the client asks a worker for the missing part of an answer that has ended.
        running_patience_s: the same for a request that still runs.
        all_heard_ms: takes a pool's lease and returns the time in which every live worker has sent a beat, both in
            milliseconds. A request that the pool does not know after that time is lost.
        deadline_grace_s: how long the pool has to end a request whose time to live has passed.
        attach_ended_s: how long a client that attached to an ended request may at least take to collect its answer.
        leave_wait_s: how long the client waits for the pool to cancel a request whose reader has left.
        server_patience_s: how long a subscription, and then a submission, waits for a server that does not answer or
            refuses temporarily, for instance while it loads its data.
    """

    beat_every_s: float = 2.0
    retry_every_s: float = 0.5
    replay_every_s: float = 0.5
    possible_gap_replay_every_s: float = 2.0
    last_message_s: float = 0.1
    ended_patience_s: float = 3.0
    running_patience_s: float = 10.0
    all_heard_ms: Callable[[int], float] = all_heard_ms
    deadline_grace_s: float = 2.0
    attach_ended_s: float = 30.0
    leave_wait_s: float = 1.0
    server_patience_s: float = 10.0
