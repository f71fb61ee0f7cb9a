"""What all dialects share: the client of the pool, who may ask, and how questions are sent."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

from starlette.requests import Request

from tokenlane.producer.client import Client
from tokenlane.producer.stream import ChatStream
from tokenlane.routing.contract.requests import ChatOptions, CommonOptions
from tokenlane.routing.contract.wire import Priority
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.request_records import RequestRecord

from .access.addressee import addressee
from .access.caller import Caller
from .failures import Refused
from .http.outlet import Pauses
from .http.resume import resumed
from .question import Begun, Question

DEFAULT_TIME_TO_LIVE_MS = 3_600_000
"""How long a request may take if the client does not say. It ends earlier when the client leaves."""
_PRIORITIES: tuple[Priority, ...] = get_args(Priority)
_LONGEST_MS = 86_400_000


async def _unknown(_: str) -> None:
    """What the pool knows of a request, in a gateway that cannot ask it."""


@dataclass(frozen=True)
class Door:
    """The gateway as its dialects see it.

    Args:
        client: an open client of the pool.
        caller_of: tells who made a request. Raises `Refused` for a key that is missing or wrong.
        policy: returns the pool's policy, which may be a few seconds old.
        pauses: how long a response may be silent.
        tasks: in which answers go on without their clients; None if there are none in this gateway.
        record_of: returns what the pool knows of a request; None if it does not know it.
    """

    client: Client
    caller_of: Callable[[Request], Awaitable[Caller]]
    policy: Callable[[], Awaitable[Policy]]
    pauses: Pauses = field(default_factory=Pauses)
    tasks: asyncio.TaskGroup | None = None
    record_of: Callable[[str], Awaitable[RequestRecord | None]] = _unknown


@dataclass(frozen=True)
class Asked:
    """A question that is ready to be sent: entering `stream` sends it.

    Args:
        characters: how much of the answer the client has, if it joins a request again; None for a new request.
    """

    question: Question
    begun: Begun
    stream: ChatStream
    characters: int | None = None

    @property
    def accepted(self) -> Begun:
        """The question once `stream` is entered: a request with the same idempotency key may answer it."""
        return replace(self.begun, request_id=self.stream.request_id)


async def prepare(door: Door, caller: Caller, question: Question, request: Request) -> Asked:
    """Make the pool's request of a caller's question.

    Raises:
        Refused: the question is refused.
        PoolUnavailable: the pool does not say what its policy is.
    """
    now = int(time.time())
    if (place := resumed(request.headers)) is not None:
        record = await door.record_of(place.request_id)
        if record is None or record.kind != "chat" or not caller.has(record.agent):
            raise Refused(404, "request_lost", "The pool knows no such request of this caller: send it as a new one.")
        stream = door.client.attach(place.request_id)
        return Asked(question, Begun(place.request_id, question.model, now), stream, place.characters)
    to, common = await addressed(door, caller, question.model, request.headers, question.options)
    options: ChatOptions = {**question.options, **common}
    if (conversation := question.options.get("conversation") or caller.conversation) is not None:
        options["conversation"] = conversation
    try:
        stream = door.client.chat(
            question.messages,
            role=to,
            agent=caller.user(question.user),
            quota=caller.quota,
            response_format=question.response_format,
            **options,
        )
    except (TypeError, ValueError):  # an option that the dialect did not check
        raise Refused(400, "bad_request", "The request has a value of the wrong type.") from None
    return Asked(question, Begun(stream.request_id, question.model, now, common["priority"]), stream)


async def addressed(
    door: Door, caller: Caller, model: str, headers: Mapping[str, str], options: CommonOptions
) -> tuple[str, CommonOptions]:
    """The role that a request is for, and the options that follow from its caller and its headers.

    Args:
        options: the options that the body has.

    Raises:
        Refused: the model's name or a header is refused.
        PoolUnavailable: the pool does not say what its policy is.
    """
    to = addressee(model, caller.role, await door.policy())
    common: CommonOptions = {
        "model": to.model,
        "priority": _priority(options.get("priority"), caller.priority),
        "time_to_live_ms": _time_to_live_ms(headers, options),
    }
    if (key := headers.get("idempotency-key")) is not None:
        common["idempotency_key"] = key
    return to.role, common


def _priority(asked: Priority | None, highest: Priority) -> Priority:
    """The priority of a request: the one it asks for, but not above the caller's."""
    return max(asked or highest, highest, key=_PRIORITIES.index)


def _time_to_live_ms(headers: Mapping[str, str], options: CommonOptions) -> int:
    """How long the request may take.

    Raises:
        Refused: the header has another form.
    """
    given = headers.get("x-tokenlane-time-to-live-ms")
    if given is None:
        return options.get("time_to_live_ms", DEFAULT_TIME_TO_LIVE_MS)
    if not re.fullmatch("[0-9]{1,8}", given) or not 1 <= int(given) <= _LONGEST_MS:
        raise Refused(400, "bad_request", f"x-tokenlane-time-to-live-ms must be a number from 1 to {_LONGEST_MS}.")
    return int(given)
