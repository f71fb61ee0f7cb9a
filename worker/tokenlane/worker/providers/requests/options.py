"""Checks the options of a request, and reads its stop words and its `extra`."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue

from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.contract.requests import ChatRequest

ELSEWHERE = "leave it out, or route this role to another provider"
"""The advice for an option that a server does not support."""

_NOT_EXTRA = {"model", "messages", "stream", "stream_options"}


def refuse_ignored(request: ChatRequest, ignored: Mapping[str, str], provider: str) -> None:
    """Refuse a request with an option that the model server would silently ignore.

    Args:
        ignored: the names of such options, with advice for each. `parallel_tool_calls` is refused only if it is False.
        provider: the name of the provider or model server in the message.

    Raises:
        BadRequest: the request sets such an option.
    """
    for name, alternative in ignored.items():
        value = getattr(request, name)
        if value not in (None, {}) and not (name == "parallel_tool_calls" and value):
            raise BadRequest(f"{provider} does not support `{name}`: {alternative}.")


def stops_of(request: ChatRequest) -> list[str]:
    """The request's stop words."""
    return [request.stop] if isinstance(request.stop, str) else request.stop or []


def client_side_stops(request: ChatRequest) -> list[str]:
    """The stop words at which tokenlane itself ends the text. The list is empty if `extra` has one of vLLM's options
    that keep the stop word in the text or ignore stop words for a number of tokens."""
    extra = request.extra or {}
    return [] if extra.get("include_stop_str_in_output") or extra.get("min_tokens") else stops_of(request)


def extra_of(request: ChatRequest) -> dict[str, JsonValue]:
    """The request's `extra`, which goes into the body unchanged.

    Raises:
        BadRequest: `extra` sets a field that the request has already, or asks for several answers.
    """
    extra = request.extra or {}
    for name in sorted(_NOT_EXTRA & extra.keys()):
        raise BadRequest(
            f"`{name}` must not be in `extra`: set model and messages in the request; every answer is streamed."
        )
    if extra.get("n", 1) != 1:
        raise BadRequest("`n` in `extra` must be 1: for several answers, send several requests.")
    return extra


def as_json(body: dict[str, JsonValue]) -> bytes:
    """The body as JSON.

    Raises:
        BadRequest: a number in the body is not finite.
    """
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        raise BadRequest(
            "The request contains a number that is not finite (NaN or infinity), which JSON does not allow."
        ) from None
