"""The options of a request: what a server would ignore is refused, `extra` goes in, stop words are read."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue

from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.contract.requests import ChatRequest

ELSEWHERE = "leave it out, or route this role to another provider"
"""What to do in place of an option that a server does not have."""

_NOT_EXTRA = {"model", "messages", "stream", "stream_options"}


def refuse_ignored(request: ChatRequest, ignored: Mapping[str, str], provider: str) -> None:
    """Refuse what the server would take and not do.

    Args:
        ignored: the options, and what to do in place of each. `parallel_tool_calls` is one only where it is off.

    Raises:
        BadRequest: the request has one of them.
    """
    for name, instead in ignored.items():
        value = getattr(request, name)
        if value not in (None, {}) and not (name == "parallel_tool_calls" and value):
            raise BadRequest(f"{provider} does not support `{name}`: {instead}.")


def stops_of(request: ChatRequest) -> list[str]:
    """The request's stop words."""
    return [request.stop] if isinstance(request.stop, str) else request.stop or []


def cut_stops_of(request: ChatRequest) -> list[str]:
    """The stop words that the answer is to end before: none if vLLM is told to leave the one that ended it in the text,
    or to look for none before so many tokens."""
    extra = request.extra or {}
    return [] if extra.get("include_stop_str_in_output") or extra.get("min_tokens") else stops_of(request)


def extra_of(request: ChatRequest) -> dict[str, JsonValue]:
    """What goes into the body as it is.

    Raises:
        BadRequest: it names what is said elsewhere, or asks for more than one answer.
    """
    extra = request.extra or {}
    for name in sorted(_NOT_EXTRA & extra.keys()):
        raise BadRequest(
            f"`{name}` is not for `extra`: model and messages are said outside of it, and every answer is streamed."
        )
    if extra.get("n", 1) != 1:
        raise BadRequest("`n` in `extra` must be 1: send one request an answer.")
    return extra


def as_json(body: dict[str, JsonValue]) -> bytes:
    """A request's body.

    Raises:
        BadRequest: a number in it is not finite.
    """
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        raise BadRequest("The request holds a number that is not finite, which JSON cannot carry.") from None
