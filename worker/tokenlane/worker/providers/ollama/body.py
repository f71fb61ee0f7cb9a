"""Builds the body of a chat request in Ollama's native dialect."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import JsonValue
from pydantic_core import from_json

from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.worker.providers.requests.options import ELSEWHERE, as_json, extra_of, refuse_ignored, stops_of
from tokenlane.worker.providers.requests.turns import add_text

_OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repeat_penalty",
    "max_tokens": "num_predict",
    "seed": "seed",
}
_EFFORTS: dict[str, JsonValue] = {"none": False, "minimal": "low", "xhigh": "max"}
_IMAGE = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)


def ollama_body(request: ChatRequest, model: str) -> bytes:
    """The request as JSON, with only the options that the agent set. Answers are always streamed.

    The body tells Ollama to refuse a prompt that does not fit the context instead of truncating it, and to end an
    answer at the limit of the context instead of dropping parts of the prompt. `extra` is added unchanged, except that
    its `options` are merged with the request's. `extra` must not set model, messages or streaming.

    Raises:
        BadRequest: Ollama does not support an option, or JSON cannot hold a value.
    """
    refuse_ignored(request, dict.fromkeys(("logit_bias", "parallel_tool_calls"), ELSEWHERE), "Ollama")
    extra = dict(extra_of(request))
    more = extra.pop("options", None) or {}
    if not isinstance(more, dict):
        raise BadRequest("`options` in `extra` must be an object, as in Ollama's own requests.")
    options = {**_options(request), **more}
    effort = request.reasoning_effort
    chosen: dict[str, JsonValue] = {
        "think": _EFFORTS.get(effort, effort) if effort else None,
        "logprobs": request.logprobs,
        "top_logprobs": request.top_logprobs,
    }
    body: dict[str, JsonValue] = {
        "truncate": False,
        "shift": False,
        **_tools(request),
        **_format(request),
        **{name: value for name, value in chosen.items() if value is not None},
        **extra,
        "model": model,
        "messages": list(_messages(request.messages)),
        "stream": True,
    }
    if options:
        body["options"] = options
    return as_json(body)


def _options(request: ChatRequest) -> dict[str, JsonValue]:
    values = {theirs: getattr(request, ours) for ours, theirs in _OPTIONS.items()}
    options = {name: value for name, value in values.items() if value is not None}
    return options if request.stop is None else {**options, "stop": [*stops_of(request)]}


def _tools(request: ChatRequest) -> dict[str, JsonValue]:
    if request.tool_choice not in (None, "auto", "none"):
        raise BadRequest(f"Ollama does not support `tool_choice` other than auto and none: {ELSEWHERE}.")
    if not request.tools or request.tool_choice == "none":
        return {}
    return {"tools": [*request.tools]}


def _format(request: ChatRequest) -> dict[str, JsonValue]:
    match request.response_format:
        case None | {"type": "text"}:
            return {}
        case {"type": "json_object"}:
            return {"format": "json"}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return {"format": schema}
        case _:
            raise BadRequest("`response_format` must be of type text, json_object or json_schema with a schema.")


def _messages(messages: list[Message]) -> Iterator[JsonValue]:
    called: dict[str, JsonValue] = {}
    """The name of the called tool by the id of the call. Ollama needs the name with each result."""
    for message in messages:
        if message.name and message.role != "tool":
            raise BadRequest(f"Ollama does not support `name` in a turn of the {message.role}: leave it out.")
        text, images = _content(message.content if not message.refusal else add_text(message.content, message.refusal))
        turn: dict[str, JsonValue] = {
            "role": "system" if message.role == "developer" else message.role,
            "content": text,
        }
        if message.thought:
            turn["thinking"] = message.thought
        if images:
            turn["images"] = [*images]
        if message.tool_calls:
            calls = [_tool_call(call) for call in message.tool_calls]
            called.update({str(call["id"]): _function(call)["name"] for call in calls if "id" in call})
            turn["tool_calls"] = [*calls]
        if message.role == "tool":
            name = message.name or called.get(message.tool_call_id or "")
            turn.update({"tool_name": name} if name else {})
            turn.update({"tool_call_id": message.tool_call_id} if message.tool_call_id else {})
        yield turn


def _content(content: str | list[dict[str, JsonValue]] | None) -> tuple[str, list[str]]:
    """The text, and the images as base64."""
    if not isinstance(content, list):
        return content or "", []
    texts: list[str] = []
    images: list[str] = []
    for part in content:
        match part:
            case {"type": "text", "text": str(text)} if len(part) == 2:
                texts.append(text)
            case {"type": "image_url", "image_url": {"url": str(url), **hints}} if len(part) == 2:
                match = _IMAGE.match(url)
                if match is None:
                    raise BadRequest("Ollama does not fetch images: send them as data:image/...;base64,... URLs.")
                if hints not in ({}, {"detail": "auto"}):
                    raise BadRequest("Ollama accepts only the `url` of an image: leave out the other fields.")
                images.append(url[match.end() :])
            case {"type": "image_url"} if len(part) == 2:
                raise BadRequest('`image_url` must be an object: {"url": "data:image/..."}.')
            case _:
                raise BadRequest(
                    "Ollama accepts only parts of type text (with the field `text`) and image_url (with the field "
                    "`image_url`)."
                )
    return "\n".join(texts), images


def _tool_call(call: dict[str, JsonValue]) -> dict[str, JsonValue]:
    function = _function(call)
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        try:
            arguments = from_json(arguments)
        except ValueError:
            raise BadRequest(
                "Ollama requires that the arguments of a tool call in `messages` are valid JSON."
            ) from None
    return {
        **({"id": call["id"]} if "id" in call else {}),
        "function": {"name": function.get("name"), "arguments": arguments},
    }


def _function(call: dict[str, JsonValue]) -> dict[str, JsonValue]:
    function = call.get("function")
    if not isinstance(function, dict):
        raise BadRequest("A tool call in `messages` has no `function`: give its name and arguments.")
    return function
