"""Refusals of requests, independent of a dialect, and how each server words them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Reason = Literal[
    "bad_request",
    "wrong_format",
    "misshapen",
    "model_missing",
    "embedder_missing",
    "not_loaded",
    "cannot_chat",
    "cannot_embed",
    "cannot_think",
    "cannot_see",
    "too_long",
    "input_too_long",
    "overloaded",
    "sleeping",
    "load_failed",
    "unauthorized",
    "not_implemented",
]


class Refused(Exception):
    """The server refuses the request. A dialect turns this into a status and a body.

    Args:
        tokens: the number of tokens in the request, if it is too long.
        limit: the number of tokens that it may have.
        parameter: the field of the request that is wrong.
    """

    def __init__(
        self,
        reason: Reason,
        message: str = "",
        *,
        model: str = "",
        tokens: int = 0,
        limit: int = 0,
        parameter: str | None = None,
    ) -> None:
        super().__init__(message or reason)
        self.reason: Reason = reason
        self.message = message or reason
        self.model, self.tokens, self.limit, self.parameter = model, tokens, limit, parameter


class Wording(NamedTuple):
    """How a server words a refusal. `message` may contain {model}, {tokens}, {limit} and {message}."""

    status: int
    kind: str
    message: str = "{message}"
    code: str | None = None


def wording_of(refused: Refused, table: Mapping[Reason, Wording]) -> Wording:
    """Return how a server words this refusal. A refusal that is not in the table is worded as a bad request."""
    words = table.get(refused.reason, table["bad_request"])
    message = words.message.format(
        model=refused.model, tokens=refused.tokens, limit=refused.limit, message=refused.message
    )
    return words._replace(message=message)
