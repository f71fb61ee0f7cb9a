"""Answers in the form of a pydantic model: its JSON schema on the way out, the model itself on the way back."""

from __future__ import annotations

import re
from typing import TypeAlias, cast

from pydantic import BaseModel, JsonValue, ValidationError

from tokenlane.routing.contract.answers import Answer, Parsed
from tokenlane.routing.contract.errors import SchemaMismatch

Form: TypeAlias = type[Parsed] | dict[str, JsonValue] | None
"""What an answer is to look like: a pydantic model, a `response_format` in OpenAI's shape, or as it comes."""

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]+")


def asked_for(model: type) -> dict[str, JsonValue]:
    """The `response_format` that asks for JSON of this model, in OpenAI's shape.

    Raises:
        TypeError: it is another class.
    """
    if not issubclass(model, BaseModel):
        raise TypeError(f"response_format takes a pydantic model or a dict in OpenAI's shape, not {model.__name__}")
    name = _NOT_IN_A_NAME.sub("_", model.__name__)[:64]
    return {"type": "json_schema", "json_schema": {"name": name, "schema": model.model_json_schema()}}


def filled(answer: Answer, model: type[Parsed]) -> Answer[Parsed]:
    """The answer with `parsed` filled in, unless it calls tools instead of saying something.

    Raises:
        SchemaMismatch: its text is not JSON of this model. The error does not quote it.
    """
    if answer.tool_calls and not answer.text:
        return cast("Answer[Parsed]", answer)
    try:
        parsed = model.model_validate_json(answer.text)
    except ValidationError as error:
        kinds = sorted({str(one["type"]) for one in error.errors(include_input=False, include_context=False)})
    else:
        return cast("Answer[Parsed]", answer.model_copy(update={"parsed": parsed}))
    # Raised out here, so that pydantic's error, which quotes the answer, is not its context.
    why = "it was cut off: ask for more max_tokens" if answer.finish_reason == "length" else "see the error's `text`"
    mismatch = SchemaMismatch(
        f"the answer to {answer.request_id} is no {model.__name__} ({', '.join(kinds)}); {why}",
        lane=answer.lane,
        model=answer.model,
    )
    mismatch.text = answer.text
    raise mismatch
