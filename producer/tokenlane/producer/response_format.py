"""Answers that are a pydantic model: asks for JSON of the model's schema, and parses the answer."""

from __future__ import annotations

import re
from typing import TypeAlias, cast

from pydantic import BaseModel, JsonValue, ValidationError

from tokenlane.routing.contract.answers import Answer, Parsed
from tokenlane.routing.contract.errors import SchemaMismatch

ResponseFormat: TypeAlias = type[Parsed] | dict[str, JsonValue] | None
"""The form that an answer must have: a pydantic model, a `response_format` in OpenAI's shape, or any."""

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]+")


def to_openai_format(form: ResponseFormat[Parsed]) -> dict[str, JsonValue] | None:
    """The `response_format` for this form, in OpenAI's shape.

    Raises:
        TypeError: the form is neither a pydantic model nor a dict.
    """
    if form is None or isinstance(form, dict):
        return form
    given: object = form  # not everybody checks types
    if not (isinstance(given, type) and issubclass(given, BaseModel)):
        kind = given.__name__ if isinstance(given, type) else f"a value of type {type(given).__name__}"
        raise TypeError(f"response_format takes a pydantic model, or a dict in OpenAI's format, not {kind}")
    name = _NOT_IN_A_NAME.sub("_", given.__name__)[:64]
    return {"type": "json_schema", "json_schema": {"name": name, "schema": given.model_json_schema()}}


def parse_answer(model: type[Parsed], answer: Answer) -> Answer[Parsed]:
    """The answer with `parsed` filled in, unless it calls tools and has no text.

    Raises:
        SchemaMismatch: the text is not JSON of this model. The message does not quote the text.
    """
    if answer.tool_calls and not answer.text:
        return cast("Answer[Parsed]", answer)
    try:
        parsed = model.model_validate_json(answer.text)
    except ValidationError as error:
        kinds = sorted({str(wrong["type"]) for wrong in error.errors(include_input=False, include_context=False)})
    else:
        return cast("Answer[Parsed]", answer.model_copy(update={"parsed": parsed}))
    # Raised here, so that pydantic's error, which quotes the answer, does not become its context.
    why = "it was cut off: ask for more max_tokens" if answer.finish_reason == "length" else "see the error's `text`"
    mismatch = SchemaMismatch(
        f"the answer is no valid {model.__name__} ({', '.join(kinds)}); {why}", lane=answer.lane, model=answer.model
    ).at(request_id=answer.request_id)
    mismatch.text = answer.text
    raise mismatch
