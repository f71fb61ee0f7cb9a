"""Builds the errors of answers that broke off, as agents raise them."""

from __future__ import annotations

from typing import Literal

from tokenlane.routing.contract.errors import (
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
    final = Interrupted(error.message, detail=error.detail)
    return final.at(provider=error.provider, lane=error.lane, model=error.model)


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
