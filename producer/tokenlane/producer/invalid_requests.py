"""Explains to an agent why its request is not valid, in the terms of Python and without quoting the request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tokenlane.config.settings.values import NAME_RULE
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.requests import Message
from tokenlane.routing.contract.strict_input import unknown_field_message

_EXPECTED_TYPES = {
    "bool_type": "True or False",
    "bool_parsing": "True or False",
    "dict_type": "a dict",
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "list_type": "a list",
    "model_type": "a dict or a {class_name}",
    "string_type": "a string",
}
"""By pydantic's type of error."""
_BOUNDS = {
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "missing": "is required",
    "string_too_short": "must not be empty",
    "too_long": "must have at most {max_length} items",
    "too_short": "must not be empty",
}
_ADVICE = {
    "string_pattern_mismatch": NAME_RULE,  # all our strings with a pattern are names
    "string_unicode": "the text is not valid Unicode: remove lone surrogates",
}
_FIELDS = frozenset(Message.model_fields).union(*(kind.request.model_fields for kind in KINDS.values()))


def explain(error: ValidationError) -> str:
    """Return what is wrong with each field. Keys of the agent's own mappings are not quoted, since they may be content.

    For a field that takes several types, pydantic reports an error for each type; they become one. If such a field has
    a wrong item, only the item is reported.
    """
    expected: dict[str, list[str]] = {}
    given: dict[str, str] = {}
    others: dict[str, None] = {}
    for wrong in error.errors(include_url=False):
        field = ".".join(str(part) for part in wrong["loc"] if isinstance(part, int) or part in _FIELDS)
        if wrong["type"] in _EXPECTED_TYPES:
            what = _EXPECTED_TYPES[wrong["type"]].format(**wrong.get("ctx", {}))
            expected.setdefault(field, []).append(what)
            given[field] = type(wrong["input"]).__name__
        else:
            others.update(dict.fromkeys(_complaints(field, wrong)))
    types = [
        f"{field} must be {' or '.join(dict.fromkeys(kinds))}, but is of type {given[field]}"
        for field, kinds in expected.items()
        if not any(inner.startswith(f"{field}.") for inner in expected)
    ]
    return f"The request is not valid: {'; '.join([*types, *others]).removesuffix('.')}."


def _complaints(field: str, wrong: ErrorDetails) -> Iterator[str]:
    if wrong["type"] in _BOUNDS:
        yield f"{field} {_BOUNDS[wrong['type']].format(**wrong.get('ctx', {}))}"
    else:
        text = _ADVICE.get(wrong["type"]) or wrong["msg"].removeprefix("Value error, ")
        yield f"{field}: {text}" if field else text
    # The agent may have given a missing field of a message under a similar name.
    if wrong["type"] == "missing" and isinstance(wrong["input"], Mapping) and "messages" in wrong["loc"]:
        for name in wrong["input"].keys() - Message.model_fields.keys():
            yield unknown_field_message(name, Message.model_fields)
