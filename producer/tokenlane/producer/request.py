"""From what an agent asks to what is submitted: a validated request, its envelope, its payload."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar

from pydantic import JsonValue, ValidationError
from pydantic_core import PydanticSerializationError

from tokenlane.routing.errors import BadRequest
from tokenlane.routing.messages import ChatOptions, ChatRequest, EmbedRequest, Envelope, Message, ModelCommand, Needs

__all__ = ["PAYLOAD_LIMIT_BYTES", "Messages", "compose", "compose_command", "compose_embed", "refuse_unknown"]

PAYLOAD_LIMIT_BYTES = 8 * 1024 * 1024

Messages: TypeAlias = str | Sequence[Message | Mapping[str, object]]
"""One question, or a conversation: `Message`s, or mappings of the same shape."""

_Request = TypeVar("_Request", ChatRequest, EmbedRequest, ModelCommand)

_BYTES_PER_TOKEN = 4
_ANSWER_TOKENS = 256
_IMAGE_TOKENS = 1024
_FEW_TOKENS = 1024
_REPLACED = "\ufffd".encode()
_OPTIONS = frozenset(ChatOptions.__annotations__)
_FIELDS = frozenset().union(*(form.model_fields for form in (ChatRequest, EmbedRequest, ModelCommand, Message)))


def refuse_unknown(options: Mapping[str, object]) -> None:
    """Accept the options of `ChatOptions` only.

    Raises:
        TypeError: there is another.
    """
    if options.keys() <= _OPTIONS:
        return
    unknown, known = min(options.keys() - _OPTIONS), ", ".join(sorted(_OPTIONS))
    raise TypeError(f"unknown option {unknown!r}; there are: {known} (`extra` goes to the back end as it is)")


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
        messages = [{"role": "user", "content": _encodable(messages)}]
    asked = {"id": request_id, "role": role, "messages": list(messages), **options}
    if response_format is not None:
        asked["response_format"] = response_format
    request, payload = _validated(ChatRequest, asked, "shorten its messages")
    images = [len(url) for url in _images(request)]
    prompt = (len(payload) - sum(images)) // _BYTES_PER_TOKEN + _IMAGE_TOKENS * len(images)
    tokens = prompt + (request.max_tokens or _ANSWER_TOKENS)
    needs = Needs(
        model=request.model,
        provider=request.provider,
        size=_size_class(tokens),
        input=_input_class(prompt),
        can=tuple(_abilities(request, bool(images))),
    )
    envelope = Envelope(
        id=request.id,
        client=client,
        agent=agent,
        role=request.role,
        priority=request.priority,
        needs=needs,
        tokens=tokens,
        time_to_live_ms=request.time_to_live_ms,
    )
    return envelope, payload


def compose_embed(asked: Mapping[str, object], *, agent: str, client: str) -> tuple[Envelope, bytes]:
    """The envelope of an embed request, and its payload.

    Args:
        asked: the fields of `EmbedRequest`.

    Raises:
        BadRequest: it is not valid or too large. The error does not quote it.
    """
    request, payload = _validated(EmbedRequest, asked, "send fewer or shorter texts at once")
    tokens = len(payload) // _BYTES_PER_TOKEN + 1
    longest = max(len(text.encode()) for text in request.inputs) // _BYTES_PER_TOKEN
    envelope = Envelope(
        id=request.id,
        client=client,
        agent=agent,
        role=request.role,
        kind="embed",
        priority=request.priority,
        needs=Needs(
            model=request.model, provider=request.provider, size=_size_class(tokens), input=_input_class(longest)
        ),
        tokens=tokens,
        time_to_live_ms=request.time_to_live_ms,
    )
    return envelope, payload


def compose_command(asked: Mapping[str, object], *, agent: str, client: str) -> tuple[Envelope, bytes]:
    """The envelope of a model command, and its payload.

    Args:
        asked: the fields of `ModelCommand`.

    Raises:
        BadRequest: it is not valid. The error does not quote it.
    """
    command, payload = _validated(ModelCommand, asked, "name a model")
    envelope = Envelope(
        id=command.id,
        client=client,
        agent=agent,
        role=command.role,
        kind="command",
        priority=command.priority,
        needs=Needs(model=command.model, lane=command.lane),
        time_to_live_ms=command.time_to_live_ms,
    )
    return envelope, payload


def _validated(form: type[_Request], asked: Mapping[str, object], shorten: str) -> tuple[_Request, bytes]:
    try:
        request = form.model_validate(asked)
        payload = request.to_wire()
        if _REPLACED in payload:
            _refuse_half_characters(request)
    except ValidationError as error:
        raise BadRequest(_explained(error)) from None
    except (PydanticSerializationError, UnicodeError):
        raise BadRequest("the request holds text that is not valid Unicode: remove lone surrogates") from None
    if len(payload) > PAYLOAD_LIMIT_BYTES:
        raise BadRequest(f"the request has {len(payload)} bytes, at most {PAYLOAD_LIMIT_BYTES} are allowed: {shorten}")
    return request, payload


def _size_class(tokens: int) -> int:
    return 1 << (tokens - 1).bit_length()


def _input_class(tokens: int) -> int:
    """Rounded up to three binary digits, by a quarter at most, so that there are few classes; few tokens are none."""
    if tokens <= _FEW_TOKENS:
        return 0
    step = 1 << (tokens.bit_length() - 3)
    return -(-tokens // step) * step


def _abilities(request: ChatRequest, shows_images: bool) -> Iterator[str]:
    """What a model should be able to do to answer this, sorted."""
    if request.response_format is not None and request.response_format.get("type") == "json_schema":
        yield "schema"
    if request.tools:
        yield "tools"
    if shows_images:
        yield "vision"


def _images(request: ChatRequest) -> Iterator[str]:
    """The URLs of the images it shows; their bytes are no text."""
    parts = (message.content for message in request.messages if isinstance(message.content, list))
    for content in parts:
        for part in content:
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else None
            if isinstance(url, str):
                yield url


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequest("the question is not valid Unicode: remove lone surrogates") from None
    return text


def _refuse_half_characters(request: ChatRequest | EmbedRequest | ModelCommand) -> None:
    # pydantic refuses lone surrogates in text, but replaces them by `_REPLACED` in the keys of JSON values.
    json.dumps(request.model_dump(exclude_unset=True), ensure_ascii=False).encode()


def _explained(error: ValidationError) -> str:
    # Of where it went wrong only names of ours: the keys of a mapping are the agent's words.
    complaints = []
    for one in error.errors(include_input=False, include_context=False, include_url=False):
        where = ".".join(str(part) for part in one["loc"] if isinstance(part, int) or part in _FIELDS)
        complaints.append(f"{where}: {one['msg']}")
    return "the request is not valid: " + "; ".join(dict.fromkeys(complaints))
