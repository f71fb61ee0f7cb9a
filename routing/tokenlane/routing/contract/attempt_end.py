"""The codes for why an attempt ended, besides those of errors: in histories of requests, logs, spans and counts."""

from __future__ import annotations

from typing import Final, Literal

StopReason = Literal["cancelled", "expired", "stale", "draining"]
"""Why a worker stops an attempt. `cancelled`: the agent no longer wants the answer. `expired`: the deadline passed.
`stale`: a newer attempt runs. `draining`: the worker shuts down."""

NotResumedReason = Literal["no_handover", "cannot_continue"]
"""Why an attempt did not resume an answer. `no_handover`: the agent did not reply in time with its part of the answer.
`cannot_continue`: this lane cannot continue that part."""

LapseReason = Literal["not_started", "worker_lost"]
"""Why the lease of an attempt lapsed, as lua/requeue.lua writes it. `not_started`: no worker of the lane started the
attempt in time. `worker_lost`: its worker renewed the lease no more."""

NO_HANDOVER: Final[NotResumedReason] = "no_handover"
WORKER_LOST: Final[LapseReason] = "worker_lost"
