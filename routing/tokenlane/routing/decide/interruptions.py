"""Builds the errors of answers that broke off or did not come in time, as agents raise them."""

from __future__ import annotations

from typing import Literal

from tokenlane.routing.contract.errors import (
    DeadlineExceeded,
    Interrupted,
    LlmError,
    ModelNotFound,
    ProviderDown,
    RequestLost,
    UnreadableAnswer,
)

_BREAKS_OFF = RequestLost | ProviderDown | UnreadableAnswer | ModelNotFound
"""Errors that count as interruptions of an answer, in addition to retryable errors."""


def final(error: LlmError) -> LlmError:
    """The error, as an agent gets it with part of the answer: an interruption is then not retryable."""
    if not isinstance(error, Interrupted):
        return error
    interrupted = Interrupted(error.message, detail=error.detail)
    return interrupted.at(provider=error.provider, lane=error.lane, model=error.model)


def as_interruption(error: LlmError, *, refused: bool = False) -> LlmError:
    """The error that an agent raises if it already has part of the answer: an `Interrupted`, unless the request itself
    is the cause of the error.

    Args:
        refused: whether a router refused the request. Lanes accepted it before, so the pool has changed.
    """
    broke_off = refused or error.retryable or isinstance(error, _BREAKS_OFF) or type(error) is LlmError
    if isinstance(error, Interrupted) or not broke_off:
        return error
    interrupted = Interrupted(f"The answer broke off: {error.message}")
    interrupted.at(provider=error.provider, lane=error.lane, model=error.model)
    interrupted.__cause__ = error
    return interrupted


_LOST = {
    "restarted": "A new attempt began the answer anew, which this stream does not allow: attach with "
    'on_interrupt="restart" to read the new answer.',
    "owner": "The answer broke off, and goes on for another client of this request that has received less of it: send "
    "the request again.",
    "part": "Part of the answer did not arrive, and its worker no longer keeps that part: send the request again.",
    "end": "The end of the answer did not arrive, and no worker keeps it any longer: send the request again.",
}


def answer_lost(what: Literal["restarted", "owner", "part", "end"]) -> Interrupted:
    """The error for an agent that can no longer get the whole answer."""
    return Interrupted(_LOST[what])


def deadline_exceeded(why_waiting: str, ended_by: str, outage: str, *, was_started: bool) -> DeadlineExceeded:
    """The error for an agent whose request did not complete within its time to live.

    Args:
        why_waiting: why the request last waited to start; '' if a later attempt may have started.
        ended_by: why its last attempt had ended, as a code; '' if that is unknown or the attempt was running.
        outage: why the pool does not answer; '' if it does.
        was_started: whether the request was ever started.
    """
    ended = f"; its last attempt ended with {ended_by}" if ended_by else ""
    if why_waiting:
        what = "was not started again" if was_started else "did not start"
        return DeadlineExceeded(
            f"The request {what} within its time to live{ended}; last known reason: {why_waiting.rstrip('.')}. "
            "`tokenlane status` shows whether its lanes accept work."
        )
    why = f"; the pool does not answer: {outage}" if outage else f"{ended}." if ended else ""
    return DeadlineExceeded(f"The request did not complete within its time to live{why}" if why else "")
