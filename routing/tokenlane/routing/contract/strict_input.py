"""Strict reading of what agents write: an unknown field is an error and is never dropped silently.

A peer of a newer version may send unknown fields, which are ignored; an agent that writes one has mistyped it or
expects an effect. Input from a peer is JSON and input from an agent is Python, which is how the two are distinguished.
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
    """A model that an agent fills in. The error about an unknown field quotes its name only, if it looks like a name.
    Unknown fields that are null or empty are accepted: OpenAI's own answers contain some."""

    # Unknown fields are kept at first: a validator before validation would make pydantic turn JSON into Python objects.
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
    """The error about an unknown name. A string that does not look like a name may be content, and is not quoted."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "it has a field without a valid name"
    return f"it has no field {name!r}.{did_you_mean(name, list(names)) or ' There are: ' + ', '.join(names)}"


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
"""A JSON object with finite numbers: pydantic would write others as null."""
