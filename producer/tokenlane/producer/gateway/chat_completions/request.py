"""Reads the body of a Chat Completions request. What the pool cannot do is refused by name."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from tokenlane.producer.gateway.dialect import JsonBody
from tokenlane.producer.gateway.failures import Refused
from tokenlane.producer.gateway.question import Question
from tokenlane.routing.contract.requests import ChatOptions


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    include_usage: bool = False


class _Body(BaseModel):
    """The fields that the pool answers. Messages are checked when the request is made."""

    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)

    model: str = ""
    messages: list[dict[str, JsonValue]]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: list[str] | str | None = None
    seed: int | None = None
    user: str | None = None
    safety_identifier: str | None = None
    response_format: dict[str, JsonValue] | None = None


def read(body: JsonBody) -> Question:
    """Translate a body.

    Raises:
        Refused: it is not valid, or asks for what the pool cannot do.
    """
    try:
        asked = _Body.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(map(str, first["loc"]))
        raise Refused(400, "bad_request", f"`{param}` is not valid: {first['msg']}.", param=param) from None
    options: ChatOptions = {}
    if (most := asked.max_completion_tokens or asked.max_tokens) is not None:
        options["max_tokens"] = most
    for name in ("temperature", "top_p", "stop", "seed"):
        if (value := getattr(asked, name)) is not None:
            options[name] = value
    return Question(
        asked.model,
        asked.messages,
        options,
        asked.response_format,
        is_streamed=bool(asked.stream),
        user=asked.safety_identifier or asked.user,
    )


def wants_usage(question: Question) -> bool:
    return True
