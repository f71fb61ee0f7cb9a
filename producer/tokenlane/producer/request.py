"""From what an agent asks to what is submitted: a validated request, its envelope, its payload."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from pydantic import JsonValue, ValidationError
from pydantic_core import PydanticSerializationError

from tokenlane.routing.errors import BadRequest
from tokenlane.routing.messages import ChatOptions, ChatRequest, Envelope, Message, Needs

__all__ = ["PAYLOAD_LIMIT_BYTES", "Messages", "compose", "refuse_unknown"]

PAYLOAD_LIMIT_BYTES = 8 * 1024 * 1024

Messages: TypeAlias = str | Sequence[Message | Mapping[str, object]]
"""One question, or a conversation: `Message`s, or mappings of the same shape."""

_BYTES_PER_TOKEN = 4
_ANSWER_TOKENS = 256
_FIELDS = ChatRequest.model_fields.keys() | Message.model_fields.keys()


def refuse_unknown(options: Mapping[str, object]) -> None:
    """Accept the options of `ChatOptions` only.

    Raises:
        TypeError: there is another.
    """
    unknown = sorted(options.keys() - ChatOptions.__annotations__.keys())
    if unknown:
        known = ", ".join(sorted(ChatOptions.__annotations__))
        raise TypeError(f"unknown option {unknown[0]!r}; there are: {known} (`extra` goes to the back end as it is)")


def compose(
    request_id: str,
    messages: Messages,
    role: str,
    options: ChatOptions,
    response_format: dict[str, JsonValue] | None = None,
    *,
    agent: str,
    client: str,
) -> tuple[Envelope, bytes]:
    """The envelope of a chat request, and its payload.

    Raises:
        BadRequest: it is not valid or too large. The error does not quote it.
    """
    if isinstance(messages, str):
        messages = [Message(role="user", content=_encodable(messages))]
    try:
        asked = {"id": request_id, "role": role, "messages": list(messages), **options}
        if response_format is not None:
            asked["response_format"] = response_format
        request = ChatRequest.model_validate(asked)
        payload = request.to_wire()
        _refuse_half_characters(request)
    except ValidationError as error:
        raise BadRequest(_explained(error)) from None
    except (PydanticSerializationError, UnicodeError):
        raise BadRequest("the request holds text that is not valid Unicode: remove lone surrogates") from None
    if len(payload) > PAYLOAD_LIMIT_BYTES:
        raise BadRequest(
            f"the request has {len(payload)} bytes, at most {PAYLOAD_LIMIT_BYTES} are allowed: shorten its messages"
        )
    return _envelope(request, len(payload), agent, client), payload


def _envelope(request: ChatRequest, size_bytes: int, agent: str, client: str) -> Envelope:
    tokens = size_bytes // _BYTES_PER_TOKEN + (request.max_tokens or _ANSWER_TOKENS)
    size = 1 << (tokens - 1).bit_length()
    return Envelope(
        id=request.id,
        client=client,
        agent=agent,
        role=request.role,
        priority=request.priority,
        needs=Needs(model=request.model, provider=request.provider, size=size),
        tokens=tokens,
        time_to_live_ms=request.time_to_live_ms,
    )


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequest("the question is not valid Unicode: remove lone surrogates") from None
    return text


def _refuse_half_characters(request: ChatRequest) -> None:
    # pydantic refuses lone surrogates in text, but replaces them in the keys of JSON values without a word.
    json.dumps(request.model_dump(exclude_unset=True), ensure_ascii=False).encode()


def _explained(error: ValidationError) -> str:
    # Of where it went wrong only names of ours: the keys of a mapping are the agent's words.
    complaints = []
    for one in error.errors(include_input=False, include_context=False, include_url=False):
        where = ".".join(str(part) for part in one["loc"] if isinstance(part, int) or part in _FIELDS)
        complaints.append(f"{where}: {one['msg']}")
    return "the request is not valid: " + "; ".join(dict.fromkeys(complaints))
