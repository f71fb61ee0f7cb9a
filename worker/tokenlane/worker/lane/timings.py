"""The time limits and pauses of a worker. Tests shorten them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timings:
    """Times in seconds."""

    batch_wait_s: float = 0.005
    """How long a delta may wait to share a publish with other answers. An answer's first delta never waits."""
    kept_s: float = 60.0
    """How long after a request's end its output is kept, for an agent that missed part of it."""
    missed_s: float = 5.0
    """How long after an answer's end, if no agent received it, a worker that shuts down waits for the agent to ask."""
    retry_s: float = 0.2
    """The pause before a call to a pool, or a question to an agent, is repeated."""
    handover_s: float = 0.5
    """How long an attempt waits for the part of the answer that the agent has, or for the next piece of a long one. It
    occupies a slot meanwhile."""
    requeue_s: float = 3.0
    """How long a cancelled attempt may take to requeue or end its request. A worker that shuts down and has stopped its
    attempts tries for as long to report their ends."""
    check_s: float = 5.0
    """How often an idle model server is checked."""
    check_hosted_s: float = 30.0
    """The same for a model server with an `https` endpoint: a hosted service may charge for requests or limit them."""
    describe_s: float = 30.0
    """How often the lane lists its model server's models again."""
    cooldown_s: float = 2.0
    """For how long a model server that failed most requests gets none, at first."""


TIMINGS = Timings()
