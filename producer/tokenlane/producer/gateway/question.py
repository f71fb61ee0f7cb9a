"""A chat as a client of the gateway asks it, in any dialect, and the request that the pool has made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from tokenlane.routing.contract.requests import ChatOptions
from tokenlane.routing.contract.wire import Priority


@dataclass(frozen=True)
class Question:
    """A chat, translated from a dialect.

    Args:
        model: the model's name as the client wrote it: a role, an alias or a model.
        messages: the conversation, in the format of `Message`.
        options: the options of the chat. The gateway adds those that follow from the caller, such as the model.
        response_format: a `response_format` as in OpenAI's API; None for free text.
        is_streamed: whether the client wants events.
        user: a name by which the client tells its own users apart, such as `safety_identifier`; None if it gives none.
    """

    model: str
    messages: Sequence[Mapping[str, object]] = field(repr=False)
    options: ChatOptions = field(default_factory=ChatOptions, repr=False)
    response_format: dict[str, JsonValue] | None = field(default=None, repr=False)
    is_streamed: bool = False
    user: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Begun:
    """A question that the pool answers.

    Args:
        request_id: the request's id in the pool, 32 hexadecimal digits.
        model: the model's name as the client wrote it.
        created_s: when the gateway got the question, in seconds since the epoch.
        priority: the priority that the request has; None if the client joined it again.
    """

    request_id: str
    model: str
    created_s: int
    priority: Priority | None = None
