"""Refusals, independent of a dialect, and the tables of servers' words for them."""

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
    """The request is not served. A dialect turns it into a status and a body.

    Args:
        tokens: with `too_long`, how many the request has.
        limit: and how many it may have.
        parameter: what in the request is wrong.
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


class Words(NamedTuple):
    """A server's words for a refusal. `message` may hold {model}, {tokens}, {limit} and {message}."""

    status: int
    kind: str
    message: str = "{message}"
    code: str | None = None


def worded(refused: Refused, table: Mapping[Reason, Words]) -> Words:
    """Return the server's words for this refusal; those for a bad request if it has none."""
    words = table.get(refused.reason, table["bad_request"])
    message = words.message.format(
        model=refused.model, tokens=refused.tokens, limit=refused.limit, message=refused.message
    )
    return words._replace(message=message)
