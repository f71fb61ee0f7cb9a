"""From what an agent asks to what is submitted: a validated request, its envelope, its payload."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import TypeAlias, TypeVar

from pydantic import JsonValue, ValidationError
from pydantic_core import PydanticSerializationError

from tokenlane.config.settings.validation_messages import did_you_mean
from tokenlane.config.settings.values import NAME_RULE
from tokenlane.routing.contract.answers import Answer
from tokenlane.routing.contract.envelope import Envelope, Needs
from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.contract.kinds import KINDS, kind_of
from tokenlane.routing.contract.prompt_size import BYTES_PER_TOKEN, bytes_of, estimated_tokens, parts_of
from tokenlane.routing.contract.requests import ChatOptions, ChatRequest, EmbedRequest, Message, ModelCommand, Request
from tokenlane.routing.contract.strict_input import unknown

PAYLOAD_LIMIT_BYTES = 8 * 1024 * 1024

Messages: TypeAlias = str | Sequence[Message | Answer | Mapping[str, object]]
"""One question, or a conversation: `Message`s, mappings of the same shape, and earlier `Answer`s."""

_Request = TypeVar("_Request", bound=Request)

_ANSWER_TOKENS = 256
_FEW_TOKENS = 1024
_REPLACED = "\ufffd".encode()
_FIELDS = frozenset(Message.model_fields).union(*(kind.request.model_fields for kind in KINDS.values()))


def refuse_unknown(options: Mapping[str, object], known: type) -> None:
    """Accept the options of a TypedDict only.

    Raises:
        TypeError: there is another.
    """
    unknown_options = options.keys() - known.__annotations__.keys()
    if unknown_options:
        name, names = min(unknown_options), sorted(known.__annotations__)
        extra = " (`extra` goes to the back end as it is)" if "extra" in names else ""
        raise TypeError(f"unknown option {name!r}.{did_you_mean(name, names)} There are: {', '.join(names)}{extra}")


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
    asked = {"id": request_id, "role": role, "messages": _turns(messages), **options}
    if response_format is not None:
        asked["response_format"] = response_format
    request, payload = _validated(ChatRequest, asked, "shorten its messages")
    _refuse_contradictions(request)
    prompt = estimated_tokens(request)
    needs = Needs(
        model=request.model,
        provider=request.provider,
        size=_size_class(prompt + (request.max_tokens or _ANSWER_TOKENS)),
        input=_input_class(prompt),
        can=tuple(_abilities(request)),
    )
    return _envelope(request, needs, agent, client), payload


def compose_embed(asked: Mapping[str, object], *, agent: str, client: str) -> tuple[Envelope, bytes]:
    """The envelope of an embed request, and its payload.

    Args:
        asked: the fields of `EmbedRequest`.

    Raises:
        BadRequest: it is not valid or too large. The error does not quote it.
    """
    request, payload = _validated(EmbedRequest, asked, "send fewer or shorter texts at once")
    sizes = [bytes_of(text) for text in request.inputs]
    tokens, longest = sum(sizes) // BYTES_PER_TOKEN + 1, max(sizes) // BYTES_PER_TOKEN
    needs = Needs(model=request.model, provider=request.provider, size=_size_class(tokens), input=_input_class(longest))
    return _envelope(request, needs, agent, client), payload


def compose_command(asked: Mapping[str, object], *, agent: str, client: str) -> tuple[Envelope, bytes]:
    """The envelope of a model command, and its payload.

    Args:
        asked: the fields of `ModelCommand`.

    Raises:
        BadRequest: it is not valid. The error does not quote it.
    """
    command, payload = _validated(ModelCommand, asked, "name a model")
    return _envelope(command, Needs(model=command.model, lane=command.lane), agent, client), payload


def _envelope(request: Request, needs: Needs, agent: str, client: str) -> Envelope:
    return Envelope(
        id=request.id,
        client=client,
        agent=agent,
        role=request.role,
        kind=kind_of(request),
        priority=request.priority,
        needs=needs,
        time_to_live_ms=request.time_to_live_ms,
    )


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


def texts_of(texts: object) -> list[object]:
    """The texts that are to be embedded, in their order.

    Raises:
        BadRequest: it is neither a text nor a list. What has no order, or keys, would give vectors of something else.
    """
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, Mapping | Set | bytes) or not isinstance(texts, Iterable):
        raise BadRequest(f"`texts` is a text or a list of texts, not of type {type(texts).__name__}")
    return list(texts)


def _size_class(tokens: int) -> int:
    return 1 << (tokens - 1).bit_length()


def _input_class(tokens: int) -> int:
    """Rounded up to three binary digits, by a quarter at most, so that there are few classes; few tokens are none."""
    if tokens <= _FEW_TOKENS:
        return 0
    step = 1 << (tokens.bit_length() - 3)
    return -(-tokens // step) * step


def _turns(messages: Messages) -> list[object]:
    if isinstance(messages, str):
        return [{"role": "user", "content": _encodable(messages)}]
    if isinstance(messages, Mapping | Message | Answer):
        raise BadRequest("`messages` is a single message: put it into a list")
    if not isinstance(messages, Sequence):
        raise BadRequest(f"`messages` is a text or a list of messages, not of type {type(messages).__name__}")
    for place, turn in enumerate(messages):
        if isinstance(turn, Mapping) and {"request_id", "finish_reason"} <= turn.keys():
            raise BadRequest(
                f"messages.{place} is the mapping of an answer: append the answer itself, or its `.message`"
            )
    return [turn.message if isinstance(turn, Answer) else turn for turn in messages]


def _refuse_contradictions(request: ChatRequest) -> None:
    """What no back end can do, or each would understand in another way."""
    last = request.messages[-1]
    if request.continue_final:
        begun = (
            last.role == "assistant" and not last.tool_calls and isinstance(last.content, str) and last.content.strip()
        )
        if not begun or len(request.messages) < 2:
            raise BadRequest(
                "`continue_final` wants a last message of the assistant, with the text that is to be continued"
            )
    elif last.role == "assistant" and not (request.extra or {}).get("continue_final_message"):
        raise BadRequest(
            "the last message is the assistant's, which some back ends continue and others answer: pass "
            "continue_final=True to have it continued, or let a message of the user follow"
        )
    if request.top_logprobs and not request.logprobs:
        raise BadRequest("`top_logprobs` goes with logprobs=True")
    names = [function.get("name") for tool in request.tools or () if isinstance(function := tool.get("function"), dict)]
    if request.must_call and not request.tools:
        raise BadRequest("`tool_choice` requires the call of a tool, and there are no `tools`")
    if request.tool is not None and request.tool not in names:
        raise BadRequest("`tool_choice` names a tool that is not among `tools`")


def _abilities(request: ChatRequest) -> Iterator[str]:
    """What a model should be able to do to answer this, sorted."""
    if request.continue_final:
        yield "prefill"
    if request.response_format is not None and request.response_format.get("type") == "json_schema":
        yield "schema"
    if request.tools:
        yield "tools"
    if any(part.get("type") == "image_url" for part in parts_of(request)):
        yield "vision"


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequest("the question is not valid Unicode: remove lone surrogates") from None
    return text


def _refuse_half_characters(request: Request) -> None:
    # pydantic refuses lone surrogates in text, but replaces them by `_REPLACED` in the keys of JSON values.
    json.dumps(request.model_dump(exclude_unset=True), ensure_ascii=False).encode()


def _explained(error: ValidationError) -> str:
    # Of where it went wrong only names of ours: the keys of a mapping are the agent's words.
    complaints = []
    for one in error.errors(include_context=False, include_url=False):
        where = ".".join(str(part) for part in one["loc"] if isinstance(part, int) or part in _FIELDS)
        # The texts of ours that have a pattern are names.
        words = NAME_RULE if one["type"] == "string_pattern_mismatch" else one["msg"].removeprefix("Value error, ")
        # What is missing may stand there under a name that is nearly right.
        if one["type"] == "missing" and isinstance(one["input"], Mapping) and "messages" in one["loc"]:
            others = [unknown(name, Message.model_fields) for name in one["input"].keys() - Message.model_fields.keys()]
            words = "; ".join([words, *others])
        complaints.append(f"{where}: {words}" if where else words)
    return "the request is not valid: " + "; ".join(dict.fromkeys(complaints))
