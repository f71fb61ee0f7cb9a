"""The times by which a link works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokenlane.routing.decide.policy import all_heard_ms

__all__ = ["Timings"]


@dataclass(frozen=True)
class Timings:
    """In seconds; tests have shorter ones.

    Attributes:
        beat_every_s: a client's beat, and the silence after which it asks how a request stands; at most a third of a
            lease, for a worker's death is to be noticed within a lease and a second.
        beat_again_s: the next beat while the pool is away.
        replay_again_s: what a request is known to lack is asked of its worker again.
        gap_replay_again_s: the same of a request that may lack something.
        ended_patience_s: how long the worker of a request that has ended is asked for the rest of its answer.
        running_patience_s: the same of a request that still runs.
        taken_up_s: how long another worker has to take up an answer that broke off.
        all_heard_ms: of a pool's lease: within that many milliseconds every worker that lives has beaten, so what is
            still missing then is lost.
        deadline_grace_s: how long the pool is waited for to end a request whose time is up.
        ended_left_s: what a request has left at least that has ended when it is attached to.
        goodbye_s: how long leaving waits for the pool to hear of it.
        cancel_again_s: the next try to tell it.
        server_patience_s: how long a subscription waits for a server that is away.
    """

    beat_every_s: float = 2.0
    beat_again_s: float = 0.5
    replay_again_s: float = 0.5
    gap_replay_again_s: float = 2.0
    ended_patience_s: float = 3.0
    running_patience_s: float = 10.0
    taken_up_s: float = 0.5
    all_heard_ms: Callable[[int], float] = all_heard_ms
    deadline_grace_s: float = 2.0
    ended_left_s: float = 30.0
    goodbye_s: float = 2.0
    cancel_again_s: float = 0.5
    server_patience_s: float = 10.0
