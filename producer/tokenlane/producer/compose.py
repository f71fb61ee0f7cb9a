"""Validates a request from an agent, and makes the envelope and the payload that a link submits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import TypeAlias, TypeVar

from pydantic import JsonValue, ValidationError
from pydantic_core import PydanticSerializationError

from tokenlane.config.settings.validation_messages import did_you_mean
from tokenlane.routing.contract.answers import Answer
from tokenlane.routing.contract.envelope import Envelope, Needs, Quota
from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.contract.kinds import kind_of
from tokenlane.routing.contract.prompt_size import BYTES_PER_TOKEN, estimated_tokens, parts_of, utf8_size
from tokenlane.routing.contract.requests import ChatOptions, ChatRequest, EmbedRequest, Message, ModelCommand, Request

from .invalid_requests import explain

PAYLOAD_LIMIT_BYTES = 8 * 1024 * 1024

Messages: TypeAlias = str | Sequence[Message | Answer | Mapping[str, object]]
"""A question as text, or a conversation: a sequence of `Message`s, dicts with the same keys, and earlier `Answer`s."""

_Request = TypeVar("_Request", bound=Request)

_USUAL_ANSWER_TOKENS = 256
_SHORT_PROMPT_TOKENS = 1024
_REPLACEMENT = "\ufffd".encode()


def refuse_unknown(options: Mapping[str, object], known: type, *parameters: str) -> None:
    """Check that all options exist.

    Args:
        known: the TypedDict of the options.
        parameters: the optional parameters of the call, which the error lists together with the options.

    Raises:
        TypeError: an option does not exist. The error names similar options.
    """
    unknown_options = options.keys() - known.__annotations__.keys()
    if unknown_options:
        name, names = min(unknown_options), sorted([*known.__annotations__, *parameters])
        hint = did_you_mean(name, names)
        if name == "timeout":
            hint = " Use 'time_to_live_ms', in milliseconds."
        elif name == "stream" and known is ChatOptions:
            hint = " Use `client.chat`, which streams the answer."
        extra = " (`extra` goes to the model server as it is)" if "extra" in names else ""
        raise TypeError(f"unknown option {name!r}.{hint} The options are: {', '.join(names)}{extra}")


def compose(
    request_id: str,
    messages: Messages,
    role: str,
    options: ChatOptions,
    response_format: dict[str, JsonValue] | None = None,
    *,
    agent: str,
    client: str,
    quota: Quota | None = None,
) -> tuple[Envelope, bytes]:
    """Make the envelope and the payload of a chat request.

    Raises:
        BadRequest: the request is not valid or is too large. The error does not quote its content.
    """
    fields = {"id": request_id, "role": role, "messages": _conversation(messages), **options}
    if response_format is not None:
        fields["response_format"] = response_format
    return compose_chat(fields, agent=agent, client=client, quota=quota)


def compose_chat(
    fields: Mapping[str, object], *, agent: str, client: str, quota: Quota | None = None
) -> tuple[Envelope, bytes]:
    """Make the envelope and the payload of a `ChatRequest` with these fields. Raises the errors of `compose`."""
    request, payload = _validated(ChatRequest, fields, "shorten its messages")
    _refuse_malformed_tools(request)
    _refuse_contradictions(request)
    prompt = estimated_tokens(request)
    needs = Needs(
        model=request.model,
        provider=request.provider,
        size=_size_class(prompt + (request.max_tokens or _USUAL_ANSWER_TOKENS)),
        input=_input_class(prompt),
        can=tuple(_abilities(request)),
    )
    envelope = _counted(_envelope(request, needs, agent, client), quota)
    if request.conversation is not None:
        envelope = envelope.model_copy(update={"conversation": request.conversation})
    return envelope, payload


def compose_embed(
    fields: Mapping[str, object], *, agent: str, client: str, quota: Quota | None = None
) -> tuple[Envelope, bytes]:
    """Make the envelope and the payload of an `EmbedRequest` with these fields. Raises the errors of `compose`."""
    request, payload = _validated(EmbedRequest, fields, "send fewer or shorter texts at once")
    sizes = [utf8_size(text) for text in request.inputs]
    tokens, longest = sum(sizes) // BYTES_PER_TOKEN + 1, max(sizes) // BYTES_PER_TOKEN
    needs = Needs(model=request.model, provider=request.provider, size=_size_class(tokens), input=_input_class(longest))
    return _counted(_envelope(request, needs, agent, client), quota), payload


def compose_command(fields: Mapping[str, object], *, agent: str, client: str) -> tuple[Envelope, bytes]:
    """Make the envelope and the payload of a `ModelCommand` with these fields. Raises the errors of `compose`."""
    command, payload = _validated(ModelCommand, fields, "name a model")
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


def _counted(envelope: Envelope, quota: Quota | None) -> Envelope:
    return envelope if quota is None else envelope.model_copy(update={"quota": quota})


def _validated(form: type[_Request], fields: Mapping[str, object], advice: str) -> tuple[_Request, bytes]:
    try:
        request = form.model_validate(fields)
        payload = request.to_wire()
        if _REPLACEMENT in payload:  # pydantic replaces lone surrogates in the keys of JSON values with it
            json.dumps(request.model_dump(exclude_unset=True), ensure_ascii=False).encode()
    except ValidationError as error:
        raise BadRequest(explain(error)) from None
    except (PydanticSerializationError, UnicodeError):
        raise BadRequest("The request holds text that is not valid Unicode: remove lone surrogates.") from None
    if len(payload) > PAYLOAD_LIMIT_BYTES:
        raise BadRequest(f"The request has {len(payload)} bytes, at most {PAYLOAD_LIMIT_BYTES} are allowed: {advice}.")
    return request, payload


def list_of_texts(texts: object) -> list[object]:
    """Return the texts to embed as a list, in their order.

    Raises:
        BadRequest: `texts` is neither a text nor an ordered iterable. Sets and mappings are refused, too: a set has no
            order, and iterating over a mapping would embed its keys.
    """
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, Mapping | Set | bytes) or not isinstance(texts, Iterable):
        raise BadRequest(f"`texts` must be a text or a list of texts, but is of type {type(texts).__name__}.")
    return list(texts)


def _size_class(tokens: int) -> int:
    return 1 << (tokens - 1).bit_length()


def _input_class(tokens: int) -> int:
    """Round a prompt's tokens up by at most a quarter, so that few classes exist. 0 for a short prompt."""
    if tokens <= _SHORT_PROMPT_TOKENS:
        return 0
    step = 1 << (tokens.bit_length() - 3)
    return -(-tokens // step) * step


def _conversation(messages: Messages) -> list[object]:
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if isinstance(messages, Mapping | Message | Answer):
        raise BadRequest("`messages` is a single message: put it into a list.")
    if not isinstance(messages, Sequence):
        raise BadRequest(f"`messages` must be a text or a list of messages, but is of type {type(messages).__name__}.")
    for place, message in enumerate(messages):
        if isinstance(message, Mapping) and {"request_id", "finish_reason"} <= message.keys():
            raise BadRequest(
                f"`messages.{place}` is an answer as a dict: append the `Answer` itself, or its `.message`."
            )
    return [message.message if isinstance(message, Answer) else message for message in messages]


def _refuse_malformed_tools(request: ChatRequest) -> None:
    """Refuse tools that are not in OpenAI's format. Additional keys are allowed, since some model servers read them."""
    for place, tool in enumerate(request.tools or ()):
        function = tool.get("function")
        if tool.get("type") != "function":
            wrong = 'type must be "function"'
        elif not isinstance(function, dict):
            wrong = "function must be a dict with the tool's name and parameters"
        elif not (isinstance(name := function.get("name"), str) and name):
            wrong = "function.name must be a string that is not empty"
        else:
            continue
        shape = '{"type": "function", "function": {"name": ..., "description": ..., "parameters": ...}}'
        raise BadRequest(f"The request is not valid: tools.{place}.{wrong}; a tool is {shape}.")


def _refuse_contradictions(request: ChatRequest) -> None:
    """Refuse options that contradict each other, and requests that model servers interpret in different ways."""
    last = request.messages[-1]
    if request.continue_final:
        has_text = isinstance(last.content, str) and last.content.strip() and not last.tool_calls
        if last.role != "assistant" or not has_text or len(request.messages) < 2:
            raise BadRequest("`continue_final` needs a last message from the assistant, with the text to continue.")
    elif last.role == "assistant" and not (request.extra or {}).get("continue_final_message"):
        raise BadRequest(
            "The last message is from the assistant, and model servers differ in whether they continue or answer it: "
            "pass continue_final=True to have it continued, or add a message from the user."
        )
    if request.top_logprobs and not request.logprobs:
        raise BadRequest("`top_logprobs` needs logprobs=True.")
    names = [function.get("name") for tool in request.tools or () if isinstance(function := tool.get("function"), dict)]
    if request.must_call_tool and not request.tools:
        raise BadRequest("`tool_choice` requires a tool call, but there are no `tools`.")
    if request.required_tool is not None and request.required_tool not in names:
        raise BadRequest("`tool_choice` names a tool that is not among `tools`.")


def _abilities(request: ChatRequest) -> Iterator[str]:
    """The capabilities that a model needs to answer this request, sorted."""
    if request.continue_final:
        yield "prefill"
    if request.response_format is not None and request.response_format.get("type") == "json_schema":
        yield "schema"
    if request.tools:
        yield "tools"
    if any(part.get("type") == "image_url" for part in parts_of(request)):
        yield "vision"
