"""Validates requests from agents strictly: an unknown field is an error, since the agent mistyped it or expects an
effect.

The same models also read JSON from peers. A newer peer may send unknown fields, and those are ignored. Pydantic's
validation mode tells the two apart: agents pass Python objects, peers send JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from typing import Annotated, Self, TypeAlias, TypeVar

from pydantic import AfterValidator, ConfigDict, JsonValue, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from tokenlane.config.settings.validation_messages import did_you_mean

from .wire import Value

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_T = TypeVar("_T")


class StrictInput(Value):
    """A model that agents fill in. The error for an unknown field quotes the field's name, never its value. Unknown
    fields that are null or empty are ignored: OpenAI's answers contain such fields, and agents send answers back."""

    # Unknown fields are kept until they are checked below: with a validator in mode "before", pydantic would turn JSON
    # into Python objects first.
    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _refuse_unknown(self, info: ValidationInfo) -> Self:
        if more := self.__pydantic_extra__:
            if info.mode == "python" and (wrong := [name for name in more if more[name] not in (None, [], {})]):
                known = type(self).model_fields
                raise PydanticCustomError("unknown_field", "{what}", {"what": unknown_field_message(wrong[0], known)})
            self.__pydantic_fields_set__.difference_update(more)
            more.clear()
        return self


def unknown_field_message(name: object, names: Mapping[str, object]) -> str:
    """The message for an unknown field. A string that does not look like a name may be content, so it is not quoted."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "a field has a name that is not valid"
    return f"there is no field {name!r}.{did_you_mean(name, list(names)) or ' The fields are: ' + ', '.join(names)}"


def _finite(value: _T) -> _T:
    waiting: list[object] = [value]
    while waiting:
        match waiting.pop():
            case float() as number if not isfinite(number):
                raise PydanticCustomError("not_finite", "JSON cannot represent NaN and Infinity")
            case dict() as inner:
                waiting.extend(inner.values())
            case list() as inner:
                waiting.extend(inner)
    return value


JsonObject: TypeAlias = Annotated[dict[str, JsonValue], AfterValidator(_finite)]
"""A JSON object in which all numbers are finite: pydantic would write NaN and Infinity as null."""
