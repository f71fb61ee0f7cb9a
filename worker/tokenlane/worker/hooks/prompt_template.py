"""What a prompt plugin reads of a request, and how its output changes the request. Both are JSON, as in prompt.wit."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.routing.contract.strict_input import JsonObject

from .plugin_broken import PluginBroken

_SYSTEM_ROLES = ("system", "developer")
_MOST_CHARACTERS = 1024 * 1024
_FIELDS = {"system", "suffix"}


class _Output(BaseModel):
    """What a plugin returns. None leaves a text as it is; an empty `system` removes the system message."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    system: str | None = Field(default=None, max_length=_MOST_CHARACTERS, repr=False)
    suffix: str | None = Field(default=None, max_length=_MOST_CHARACTERS, repr=False)


def prompt_input(request: ChatRequest, model: str) -> str:
    """What a plugin reads. Its keys stand in this order, so that the same request gives the same text."""
    messages = request.messages
    user = _last_of_user(messages)
    values: dict[str, JsonValue] = {
        "role": request.role,
        "model": model,
        "system": _text(messages[0]) if messages[0].role in _SYSTEM_ROLES else None,
        "user": None if user is None else _text(messages[user]),
        "variables": request.metadata or {},
    }
    return json.dumps(values, ensure_ascii=False)


def apply_output(text: str, request: ChatRequest) -> ChatRequest:
    """Return the request with the texts that a plugin returned.

    Raises:
        PluginBroken: the plugin returned something else, or the texts do not fit this request.
    """
    try:
        output = _Output.model_validate_json(text)
    except ValidationError as error:
        fields = sorted({str(part["loc"][0]) for part in error.errors(include_input=False) if part["loc"]} & _FIELDS)
        wrong = f"a wrong {' and '.join(fields)}" if fields else "something other than an object with system and suffix"
        raise PluginBroken(f"returned {wrong}") from None
    messages = list(request.messages)
    if output.suffix:
        last = _last_of_user(messages)
        if last is None:
            raise PluginBroken("returned a suffix for a request without a message of the user")
        messages[last] = messages[last].model_copy(update={"content": _appended(messages[last], output.suffix)})
    if output.system is not None:
        role, replaced = (messages[0].role, 1) if messages[0].role in _SYSTEM_ROLES else ("system", 0)
        messages[:replaced] = [Message(role=role, content=output.system)] if output.system else []
    if not messages:
        raise PluginBroken("removed the only message of a request")
    return request.model_copy(update={"messages": messages})


def _last_of_user(messages: Sequence[Message]) -> int | None:
    return next((at for at in reversed(range(len(messages))) if messages[at].role == "user"), None)


def _text(message: Message) -> str | None:
    """The text of a message; of several parts, the texts on lines of their own."""
    if not isinstance(message.content, list):
        return message.content
    return "\n".join(str(part["text"]) for part in message.content if _is_text(part))


def _appended(message: Message, suffix: str) -> str | list[JsonObject]:
    """The content with the suffix: at the end of its last text, or as a part of its own if it has none."""
    content = message.content
    if not isinstance(content, list):
        return (content or "") + suffix
    texts = [at for at, part in enumerate(content) if _is_text(part)]
    if not texts:
        return [*content, {"type": "text", "text": suffix}]
    parts = list(content)
    parts[texts[-1]] = {**parts[texts[-1]], "text": f"{parts[texts[-1]]['text']}{suffix}"}
    return parts


def _is_text(part: JsonObject) -> bool:
    return part.get("type") == "text" and isinstance(part.get("text"), str)
