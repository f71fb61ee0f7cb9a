"""What an agent writes, as opposed to what a peer sends: nothing of it is left out without a word.

A peer of a newer version may send fields that we do not know, and they are ignored. An agent that writes one has
mistyped it, or expects something of it, and is told. The two differ in how they come: a peer's words are JSON.
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


class Written(Value):
    """Something that an agent writes. Of an unknown field only its name is told, if it looks like one; those that are
    null or empty say nothing, and are let pass: OpenAI's own answers hold some."""

    # Taken in first, so that only what has any is looked at: a validator before would have JSON turned into objects.
    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _refuse_unknown(self, info: ValidationInfo) -> Self:
        if more := self.__pydantic_extra__:
            if info.mode == "python" and (wrong := [name for name in more if more[name] not in (None, [], {})]):
                known = type(self).model_fields
                raise PydanticCustomError("unknown_field", "{what}", {"what": unknown(wrong[0], known)})
            self.__pydantic_fields_set__.difference_update(more)
            more.clear()
        return self


def unknown(name: object, names: Mapping[str, object]) -> str:
    """What to tell of a name that is none of these. One that is no name may be content, and is not repeated."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "it has a field whose name is none"
    return f"it has no field {name!r}.{did_you_mean(name, list(names)) or ' There are: ' + ', '.join(names)}"


def _finite(value: _T) -> _T:
    waiting: list[object] = [value]
    while waiting:
        match waiting.pop():
            case float() as number if not isfinite(number):
                raise PydanticCustomError("not_finite", "NaN and Infinity are no numbers that JSON can carry")
            case dict() as inner:
                waiting.extend(inner.values())
            case list() as inner:
                waiting.extend(inner)
    return value


JsonObject: TypeAlias = Annotated[dict[str, JsonValue], AfterValidator(_finite)]
"""A JSON object, whose numbers are finite: pydantic would write others as null."""
