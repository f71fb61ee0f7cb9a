"""Answers as pydantic models: requests JSON that matches the model's schema, and parses the answer."""

from __future__ import annotations

import re
from typing import TypeAlias, cast

from pydantic import BaseModel, JsonValue, ValidationError

from tokenlane.routing.contract.answers import Answer, Parsed
from tokenlane.routing.contract.errors import SchemaMismatch

ResponseFormat: TypeAlias = type[Parsed] | dict[str, JsonValue] | None
"""The format of an answer: a pydantic model, a dict in OpenAI's format, or None for plain text."""

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]+")


def to_openai_format(wanted: ResponseFormat[Parsed]) -> dict[str, JsonValue] | None:
    """Convert a response format to a dict in OpenAI's format.

    Raises:
        TypeError: the format is neither a pydantic model nor a dict.
    """
    if wanted is None or isinstance(wanted, dict):
        return wanted
    given: object = wanted  # not everybody checks types
    if not (isinstance(given, type) and issubclass(given, BaseModel)):
        kind = given.__name__ if isinstance(given, type) else f"a value of type {type(given).__name__}"
        raise TypeError(f"`response_format` must be a pydantic model or a dict in OpenAI's format, not {kind}")
    name = _NOT_IN_A_NAME.sub("_", given.__name__)[:64]
    return {"type": "json_schema", "json_schema": {"name": name, "schema": given.model_json_schema()}}


def parse_answer(model: type[Parsed], answer: Answer) -> Answer[Parsed]:
    """Return the answer with `parsed` set, or unchanged if it has tool calls and no text.

    Raises:
        SchemaMismatch: the text does not match the model. The message does not quote the text.
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
    why = "it was cut off: raise max_tokens" if answer.finish_reason == "length" else "see the error's `text`"
    mismatch = SchemaMismatch(
        f"The answer is no valid {model.__name__} ({', '.join(kinds)}); {why}.", lane=answer.lane, model=answer.model
    ).at(request_id=answer.request_id)
    mismatch.text = answer.text
    raise mismatch
