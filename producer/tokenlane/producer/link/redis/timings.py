"""Intervals and time-outs of a client's link to a pool in Redis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokenlane.routing.decide.policy import all_heard_ms


@dataclass(frozen=True)
class Timings:
    """In seconds; tests set shorter ones.

    Attributes:
        beat_every_s: between two beats, and the silence after which the client asks how a request stands; at most a
            third of a lease counts, since agents notice a worker's death within a lease and a second.
        again_s: between two beats, or two tries to send or cancel a request, while the pool is away.
        replay_again_s: until the client asks a worker again for messages that are known to be missing.
        gap_replay_again_s: the same for messages that may be missing.
        last_message_s: how long a request's last message may still be under way when no worker can repeat it.
        ended_patience_s: how long the client asks a worker for the rest of an answer that has ended.
        running_patience_s: the same for a request that still runs.
        taken_up_s: how long another worker has to take up an answer that broke off.
        all_heard_ms: from a pool's lease to the milliseconds in which every living worker has beaten: what is still
            missing then is lost.
        deadline_grace_s: how long the pool has to end a request whose time to live has passed.
        ended_left_s: the least time in which to collect the answer of a request that had ended before it was attached.
        goodbye_s: how long the client waits for the pool to cancel a request whose reader has left.
        server_patience_s: how long a subscription, and then the sending of a request, waits for a server that is away
            or refuses for the moment, for instance because it is loading its data.
    """

    beat_every_s: float = 2.0
    again_s: float = 0.5
    replay_again_s: float = 0.5
    gap_replay_again_s: float = 2.0
    last_message_s: float = 0.1
    ended_patience_s: float = 3.0
    running_patience_s: float = 10.0
    taken_up_s: float = 0.5
    all_heard_ms: Callable[[int], float] = all_heard_ms
    deadline_grace_s: float = 2.0
    ended_left_s: float = 30.0
    goodbye_s: float = 1.0
    server_patience_s: float = 10.0
